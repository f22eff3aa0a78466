// The responses of the last minutes and their stalls. Bounded; the server keeps no history.

const MINUTES = 5;
const MAX_STALLS = 600;

class History {
  constructor() {
    this.clear();
  }

  clear() {
    this.samples = [];
    this.stalls = new Map();
  }

  /** Adds a response. The history restarts with a new process, and when the clock was set back. */
  add(live) {
    const last = this.samples.at(-1);
    if (last && (live.pid !== last.pid || live.uptime_seconds < last.uptime || live.now_unix_seconds < last.at))
      this.clear();
    const sample = {
      at: live.now_unix_seconds,
      pid: live.pid,
      uptime: live.uptime_seconds,
      runtimes: new Map(live.runtimes.map((runtime) => [runtime.name, runtime])),
      sites: new Map(live.sites.map((site) => [`${site.runtime}\n${site.site}`, site.stalled_seconds])),
      routes: new Map(live.routes.map((route) => [route.route, route.stalled_seconds + route.spawned_stalled_seconds])),
    };
    this.samples.push(sample);
    while (this.samples[0].at < sample.at - MINUTES * 60 - 5) this.samples.shift();
    for (const stall of live.stalls) {
      this.stalls.set(stall.id, { ...stall, stack: stall.stack === null ? null : live.stacks[stall.stack] });
    }
    // An ongoing stall that is missing from the response has ended at an unknown time.
    const present = new Set(live.stalls.map((stall) => stall.id));
    for (const stall of this.stalls.values()) {
      if (stall.phase === 'ongoing' && !present.has(stall.id)) stall.phase = 'resolved';
    }
    for (const id of this.stalls.keys()) {
      if (this.stalls.size <= MAX_STALLS) break;
      this.stalls.delete(id);
    }
  }

  get latest() {
    return this.samples.at(-1);
  }

  /** Returns the oldest sample of the last `seconds`. */
  since(seconds) {
    const from = (this.latest?.at ?? 0) - seconds - 0.5;
    return this.samples.find((sample) => sample.at >= from);
  }

  /** All stalls, the most recent one first. */
  get latestStalls() {
    return [...this.stalls.values()].sort((a, b) => b.id - a.id);
  }

  /** Returns the stalls that ended after a time, or have not ended. */
  stallsEndedSince(unixSeconds) {
    const end = (stall) => stall.started_at_unix_seconds + stall.elapsed_seconds;
    return [...this.stalls.values()].filter((stall) => end(stall) >= unixSeconds);
  }

  /**
   * Returns the share of the workers' time in the last `seconds` that was blocked, or null before
   * the second sample.
   */
  blockedShare(seconds) {
    const [from, to] = [this.since(seconds), this.latest];
    if (!from || from === to) return null;
    let [blocked, all] = [0, 0];
    for (const [name, runtime] of to.runtimes) {
      const before = from.runtimes.get(name);
      if (!before || !runtime.alive) continue;
      blocked += blockedSeconds(runtime) - blockedSeconds(before);
      all += runtime.workers.length * (to.at - from.at);
    }
    return all > 0 ? Math.min(1, Math.max(0, blocked / all)) : 0;
  }

  /** Returns the number of stalls that started in the last `seconds` while the page was open. */
  stallsSince(seconds, of = stallCount) {
    const [from, to] = [this.since(seconds), this.latest];
    if (!from) return 0;
    let sum = 0;
    for (const [name, runtime] of to.runtimes) sum += of(runtime) - of(from.runtimes.get(name));
    return sum;
  }

  /** Returns a histogram's count for each bucket in the last `seconds`. */
  counts(runtime, histogram, seconds) {
    const [from, to] = [this.since(seconds), this.latest];
    return difference(from?.runtimes.get(runtime)?.[histogram], to?.runtimes.get(runtime)?.[histogram]);
  }
}

const blockedSeconds = (runtime) => runtime.stalls_by_cause.reduce((sum, cause) => sum + cause.stalled_seconds, 0);
const suspectedCount = (runtime) => runtime?.suspected.stalls ?? 0;
const stallCount = (runtime) => runtime?.stalls_by_cause.reduce((sum, cause) => sum + cause.stalls, 0) ?? 0;

/** Returns how much each bucket of a histogram grew between two samples. */
function difference(from, to) {
  if (!from || !to) return null;
  const cumulative = [...to.buckets, to.count].map((n, i) => n - [...from.buckets, from.count][i]);
  return cumulative.map((n, i) => Math.max(0, n - (cumulative[i - 1] ?? 0)));
}

/**
 * Returns the bucket bound that the share `q` did not exceed: undefined if it is above the last
 * bound, null if nothing was counted.
 */
function quantile(counts, bounds, q) {
  const all = counts?.reduce((sum, n) => sum + n, 0) ?? 0;
  if (all === 0) return null;
  let sum = 0;
  return bounds[counts.findIndex((n) => (sum += n) >= q * all)];
}
