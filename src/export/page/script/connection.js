// Requests data from the server: at most once a second, and not while the page is hidden or paused.

const INTERVAL_MS = 1000;
const TIMEOUT_MS = 5000;
const BACK_OFF_MS = [1000, 2000, 4000, 8000, 15_000];

class Connection {
  /** `next` returns the path to request; `received` gets the data, `failed` the error. */
  constructor(next, received, failed) {
    Object.assign(this, { next, received, failed });
    this.failures = 0;
    this.paused = false;
    document.addEventListener('visibilitychange', () => this.resume());
    addEventListener('online', () => this.resume());
  }

  setPaused(paused) {
    this.paused = paused;
    this.resume();
  }

  /** Sends a request as soon as the interval allows, unless hidden or paused. */
  resume() {
    clearTimeout(this.timer);
    if (this.paused || document.hidden) return;
    const wait = (this.sentAt ?? -Infinity) + INTERVAL_MS - performance.now();
    this.timer = setTimeout(() => this.request(), Math.max(0, wait));
  }

  async request() {
    if (this.pending) return;
    this.pending = true;
    this.sentAt = performance.now();
    const path = this.next();
    const response = await this.fetch(path).catch((error) => ({ error }));
    let wait = INTERVAL_MS;
    if (response.error) {
      // A single failure may be a connection that the server closed because of its age.
      this.failures += 1;
      this.since = this.failures === 1 ? Date.now() : this.since;
      wait = BACK_OFF_MS[Math.min(this.failures, BACK_OFF_MS.length) - 1];
      if (this.failures > 1) this.failed({ since: this.since, retry: Date.now() + wait, why: reasonOf(response.error) });
    } else {
      this.failures = 0;
    }
    this.pending = false;
    clearTimeout(this.timer);
    if (!this.paused && !document.hidden)
      this.timer = setTimeout(() => this.request(), Math.max(0, this.sentAt + wait - performance.now()));
    if (!response.error) this.received(path, response.data);
  }

  async fetch(path) {
    const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return { data: await response.json() };
  }
}

function reasonOf(error) {
  if (error.name === 'TimeoutError') return `no response within ${TIMEOUT_MS / 1000} s`;
  return error.message.startsWith('status ') ? error.message : 'cannot connect';
}
