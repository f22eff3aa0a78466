// What this page has seen: samples of the last minutes and the stalls told in them. Bounded; the server keeps nothing for it.

const MINUTES = 5;
const MAX_STALLS = 600;

class History {
  constructor() {
    this.forget();
  }

  forget() {
    this.samples = [];
    this.stalls = new Map();
  }

  /** Takes an answer of the server's in. Another process than the one before has a history of its own, and so has a clock that was set back. */
  take(live) {
    const last = this.samples.at(-1);
    if (last && (live.pid !== last.pid || live.uptime_seconds < last.uptime || live.now_unix_seconds < last.at))
      this.forget();
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
    // One that went on and is no longer told is over; when, was not seen.
    const told = new Set(live.stalls.map((stall) => stall.id));
    for (const stall of this.stalls.values()) {
      if (stall.phase === 'ongoing' && !told.has(stall.id)) stall.phase = 'resolved';
    }
    for (const id of this.stalls.keys()) {
      if (this.stalls.size <= MAX_STALLS) break;
      this.stalls.delete(id);
    }
  }

  get latest() {
    return this.samples.at(-1);
  }

  /** The oldest sample of the last so many seconds. */
  since(seconds) {
    const from = (this.latest?.at ?? 0) - seconds - 0.5;
    return this.samples.find((sample) => sample.at >= from);
  }

  /** Most recent first. */
  get latestStalls() {
    return [...this.stalls.values()].sort((a, b) => b.id - a.id);
  }

  /** Those that went on after a moment. */
  stallsEndedSince(unixSeconds) {
    return [...this.stalls.values()].filter((stall) => stall.started_at_unix_seconds + stall.elapsed_seconds >= unixSeconds);
  }

  /** Of the workers' time in the last so many seconds, the share that was blocked; null before there are two samples. */
  blockedShare(seconds) {
    const [from, to] = [this.since(seconds), this.latest];
    if (!from || from === to) return null;
    let [blocked, all] = [0, 0];
    for (const [name, runtime] of to.runtimes) {
      const before = from.runtimes.get(name);
      if (!before || !runtime.alive) continue;
      blocked += stalled(runtime) - stalled(before);
      all += runtime.workers.length * (to.at - from.at);
    }
    return all > 0 ? Math.min(1, Math.max(0, blocked / all)) : 0;
  }

  /** Stalls that began in the last so many seconds, as far as this page has been open. */
  stallsSince(seconds, of = stallCount) {
    const [from, to] = [this.since(seconds), this.latest];
    if (!from) return 0;
    let sum = 0;
    for (const [name, runtime] of to.runtimes) sum += of(runtime) - of(from.runtimes.get(name));
    return sum;
  }

  /** A histogram's counts in the last so many seconds, a bucket each and the one without a bound. */
  counts(runtime, histogram, seconds) {
    const [from, to] = [this.since(seconds), this.latest];
    return difference(from?.runtimes.get(runtime)?.[histogram], to?.runtimes.get(runtime)?.[histogram]);
  }
}

const stalled = (runtime) => runtime.stalls_by_cause.reduce((sum, cause) => sum + cause.stalled_seconds, 0);
const suspectedCount = (runtime) => runtime?.suspected.stalls ?? 0;
const stallCount = (runtime) => runtime?.stalls_by_cause.reduce((sum, cause) => sum + cause.stalls, 0) ?? 0;

/** What came into each bucket between two readings of a histogram. */
function difference(from, to) {
  if (!from || !to) return null;
  const cumulative = [...to.buckets, to.count].map((n, i) => n - [...from.buckets, from.count][i]);
  return cumulative.map((n, i) => Math.max(0, n - (cumulative[i - 1] ?? 0)));
}

/** The upper bound that the share `q` did not exceed; undefined where that is beyond the last, null where nothing was counted. */
function quantile(counts, bounds, q) {
  const all = counts?.reduce((sum, n) => sum + n, 0) ?? 0;
  if (all === 0) return null;
  let sum = 0;
  return bounds[counts.findIndex((n) => (sum += n) >= q * all)];
}
