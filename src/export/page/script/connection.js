// Asks the server, at most once a second, and not at all while nobody looks or the page is paused.

const PAUSE_MS = 1000;
const PATIENCE_MS = 5000;
const BACK_OFF_MS = [1000, 2000, 4000, 8000, 15_000];

class Connection {
  /** `next` names the page to ask for, `taken` is given the answer, `gone` is told when there is none. */
  constructor(next, taken, gone) {
    Object.assign(this, { next, taken, gone });
    this.failures = 0;
    this.paused = false;
    document.addEventListener('visibilitychange', () => this.resume());
    addEventListener('online', () => this.resume());
  }

  setPaused(paused) {
    this.paused = paused;
    this.resume();
  }

  /** Asks at once, unless it must not, or the last question was a moment ago. */
  resume() {
    clearTimeout(this.timer);
    if (this.paused || document.hidden) return;
    const wait = (this.asked ?? -Infinity) + PAUSE_MS - performance.now();
    this.timer = setTimeout(() => this.ask(), Math.max(0, wait));
  }

  async ask() {
    if (this.asking) return;
    this.asking = true;
    this.asked = performance.now();
    const page = this.next();
    const answer = await this.fetch(page).catch((error) => ({ error }));
    let wait = PAUSE_MS;
    if (answer.error) {
      // One may be a connection that the server closed when it was old.
      this.failures += 1;
      this.since = this.failures === 1 ? Date.now() : this.since;
      wait = BACK_OFF_MS[Math.min(this.failures, BACK_OFF_MS.length) - 1];
      if (this.failures > 1) this.gone({ since: this.since, retry: Date.now() + wait, why: reasonOf(answer.error) });
    } else {
      this.failures = 0;
    }
    this.asking = false;
    clearTimeout(this.timer);
    if (!this.paused && !document.hidden)
      this.timer = setTimeout(() => this.ask(), Math.max(0, this.asked + wait - performance.now()));
    if (!answer.error) this.taken(page, answer.data);
  }

  async fetch(page) {
    const answer = await fetch(page, { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    return { data: await answer.json() };
  }
}

function reasonOf(error) {
  if (error.name === 'TimeoutError') return `no answer in ${PATIENCE_MS / 1000} s`;
  return error.message.startsWith('it answered') ? error.message : 'nobody answers';
}
