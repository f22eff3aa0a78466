// The current state: the verdict, and a strip of the last minute for each worker.

const STRIP_SECONDS = 60;
/** The width of the shortest stalls, which would not be visible otherwise. */
const MIN_SECONDS = 0.15;
const MAX_WORKERS = 12;
/** The interval between two responses, in seconds. */
const INTERVAL_SECONDS = 1;
/** The time for which the verdict shows a report of a late runtime, in seconds. */
const LATE_SECONDS = 10;

/** The verdict on a condition of a whole runtime. */
const CONDITIONS = {
  driver_unattended: (runtime) => `Nobody attends the sockets and timers of ${runtime}`,
  runtime_hung: (runtime) => `The runtime ${runtime} hangs`,
  blocking_pool_full: (runtime) => `The blocking pool of ${runtime} is full`,
};
const titleOf = ({ kind, runtime }) => (CONDITIONS[kind] ?? ((name) => `${name}: ${kind}`))(runtime);

class Now {
  constructor(history, worst) {
    Object.assign(this, { history, worst });
    this.all = false;
    this.announced = { text: '', at: -Infinity };
    // Between two responses the times of ongoing stalls advance and the strips move.
    setInterval(() => this.tick(), matchMedia('(prefers-reduced-motion: reduce)').matches ? 1000 : 100);
  }

  show(live, running) {
    Object.assign(this, { live, running, at: performance.now() });
    this.verdict();
    this.strips();
    this.tick();
  }

  /** Seconds since the latest response; 0 while the connection is paused or lost. */
  get sinceResponse() {
    return this.running ? Math.min(3, (performance.now() - this.at) / 1000) : 0;
  }

  /**
   * Returns for how long a worker has been blocked. Only a stall that is older than one interval is
   * assumed to last until the next response.
   */
  elapsed(worker) {
    return worker.elapsed_seconds + (worker.elapsed_seconds >= INTERVAL_SECONDS ? this.sinceResponse : 0);
  }

  stop() {
    this.running = false;
  }

  blocked() {
    return this.live.runtimes.flatMap((runtime) =>
      runtime.workers.filter((worker) => worker.state === 'stalled').map((worker) => ({ runtime, worker })),
    );
  }

  verdict() {
    const { live, history } = this;
    const blocked = this.blocked().sort((a, b) => b.worker.elapsed_seconds - a.worker.elapsed_seconds);
    const share = history.blockedShare(10);
    const last = history.latestStalls[0];
    const workers = live.runtimes.reduce((sum, runtime) => sum + runtime.workers.length, 0);
    const [worst] = blocked;
    const late = live.late_runtimes.findLast(
      (report) => live.now_unix_seconds - report.reported_at_unix_seconds < LATE_SECONDS,
    );
    let [level, line, sub] = ['calm', 'Nothing is blocked', ''];
    this.ticking = null;
    if (live.runtimes.every((runtime) => !runtime.alive)) {
      [level, line] = ['idle', 'No runtime is being watched'];
      sub = 'A runtime appears here once the service has built it with Watchdog::build_runtime or attached it.';
    } else if (worst) {
      level = 'blocked';
      this.ticking = worst.worker;
      this.prefix = `${blocked.length === workers ? (workers === 1 ? 'The worker' : `All ${workers} workers`) : `${blocked.length} of ${plural(workers, 'worker')}`} blocked, `;
      line = '';
      sub = describe(worst.worker, history);
    } else if (live.conditions.length) {
      level = 'blocked';
      line = live.conditions.map(titleOf).join('; ');
      sub = live.conditions.map(({ reason }) => reason).join('; ');
    } else if (share > 0.005) {
      level = 'recent';
      line = 'Intermittently blocked';
      const [most] = this.worst.groups(live);
      sub = `Workers were blocked for ${percent(share)} of the last 10 s${most ? `, most by ${most.name}: ${reasonFor(most.example)}` : ''}`;
    } else if (late) {
      [level, line, sub] = ['recent', `The runtime ${late.runtime} is late`, late.text];
    } else if (last) {
      sub = `The last stall was ${ago(live.now_unix_seconds - last.started_at_unix_seconds - last.elapsed_seconds)}, for ${duration(last.elapsed_seconds)}`;
    } else {
      sub = `No poll has blocked a worker for ${duration(live.threshold_seconds)} or longer since the start, ${duration(live.uptime_seconds)} ago`;
    }
    setAttribute(byId('verdict'), 'data-level', level);
    if (line) setText(byId('verdict-line'), line);
    setText(byId('verdict-sub'), sub);
    this.announce(worst ? `${blocked.length} of ${plural(workers, 'worker')} blocked. ${sub}` : line);
    this.figures(workers);
  }

  /** Announces changes of the verdict to screen readers, at most once in ten seconds. */
  announce(text) {
    const now = performance.now();
    if (text === this.announced.text || now - this.announced.at < 10_000) return;
    this.announced = { text, at: now };
    setText(byId('announce'), text);
  }

  figures(workers) {
    const { history, live } = this;
    const from = history.since(60);
    const minute =
      history.latest.at - from.at > 55
        ? 'last minute'
        : `last ${Math.max(1, Math.round(history.latest.at - from.at))} s`;
    const share = history.blockedShare(60);
    const suspected = history.stallsSince(60, suspectedCount);
    const delays = live.runtimes.map((runtime) => history.counts(runtime.name, 'schedule_delay', 60)).filter(Boolean);
    const delay = delays.length ? delays[0].map((_, i) => delays.reduce((sum, counts) => sum + counts[i], 0)) : null;
    const p99 = quantile(delay, live.bucket_bounds_seconds, 0.99);
    const busy = live.runtimes.reduce((sum, runtime) => sum + runtime.busy_ratio * runtime.workers.length, 0);
    const figures = [
      ['blocked', share === null ? '–' : percent(share), `of the workers’ time, ${minute}`],
      [
        'stalls',
        share === null ? '–' : count(history.stallsSince(60)),
        suspected ? `${minute}, and ${count(suspected)} suspected` : minute,
      ],
      ['schedule delay', p99 === null ? '–' : bound(p99, live.bucket_bounds_seconds), `p99, ${minute}`],
      ['busy', workers ? percent(busy / workers) : '–', 'of the workers’ time, now'],
    ];
    sync(
      byId('figures'),
      figures,
      ([name]) => name,
      ([name]) =>
        make('div', {}, make('dt', { text: name }), make('dd', { class: 'figure' }), make('dd', { class: 'unit' })),
      (element, [, value, unit]) => {
        setText(element.children[1], value);
        setText(element.children[2], unit);
      },
    );
  }

  strips() {
    const runtimes = this.live.runtimes.filter((runtime) => runtime.workers.length > 0);
    sync(
      byId('workers'),
      runtimes,
      (runtime) => runtime.name,
      (runtime) => {
        const caption = make('h3', {}, 'runtime ', named(runtime.name));
        const scale = make(
          'p',
          { class: 'strip-scale', 'aria-hidden': true },
          ...['60 s ago', '45', '30', '15', 'now'].map((text) => make('span', { text })),
        );
        return make(
          'div',
          { class: 'runtime' },
          make('div', { class: 'runtime-head' }, caption, scale),
          make('ul', { class: 'workers' }),
          make('button', {
            type: 'button',
            class: 'more',
            click: () => {
              this.all = !this.all;
              this.strips();
            },
          }),
        );
      },
      (element, runtime) => {
        const stalls = this.recent(runtime);
        const weight = (worker) => (worker.state === 'stalled' ? 1e6 : 0) + (stalls.get(worker.index)?.length ?? 0);
        let workers = runtime.workers;
        if (!this.all && workers.length > MAX_WORKERS) {
          workers = [...workers]
            .sort((a, b) => weight(b) - weight(a))
            .slice(0, MAX_WORKERS)
            .sort((a, b) => a.index - b.index);
        }
        element.lastChild.hidden = runtime.workers.length <= MAX_WORKERS;
        setText(
          element.lastChild,
          this.all ? 'Show the most blocked workers' : `Show all ${runtime.workers.length} workers`,
        );
        sync(
          element.children[1],
          workers,
          (worker) => worker.index,
          (worker) => this.strip(worker),
          (strip, worker) => this.update(strip, worker, runtime, stalls.get(worker.index) ?? []),
        );
      },
    );
  }

  /** Returns the stalls of the last minute by worker. */
  recent(runtime) {
    const from = this.live.now_unix_seconds - STRIP_SECONDS;
    const byWorker = new Map();
    for (const stall of this.history.stalls.values()) {
      if (stall.runtime !== runtime.name || stall.worker === null) continue;
      if (stall.started_at_unix_seconds + stall.elapsed_seconds < from) continue;
      if (!byWorker.has(stall.worker)) byWorker.set(stall.worker, []);
      byWorker.get(stall.worker).push(stall);
    }
    return byWorker;
  }

  strip(worker) {
    const picture = make(
      'svg:svg',
      { class: 'strip', viewBox: `0 0 ${STRIP_SECONDS} 10`, preserveAspectRatio: 'none', role: 'img' },
      make('svg:g', {}, make('svg:g', { class: 'strip-busy' }), make('svg:g', { class: 'strip-stalls' })),
    );
    return make(
      'li',
      { class: 'worker' },
      make('span', { class: 'worker-name' }, `worker ${worker.index}`),
      make('span', { class: 'worker-state' }),
      picture,
      make('span', { class: 'worker-what' }),
    );
  }

  update(strip, worker, runtime, stalls) {
    const [, state, picture, what] = strip.children;
    strip.worker = worker;
    setAttribute(strip, 'data-state', worker.state);
    setAttribute(strip, 'title', worker.thread && `thread ${worker.thread}`);
    if (worker.state !== 'stalled') setText(state, worker.state);
    const last = stalls.at(-1);
    const { route, site } = whereOf(worker.state === 'stalled' ? worker : (last ?? worker));
    setText(
      what,
      worker.state === 'stalled'
        ? (route ?? site ?? '')
        : last
          ? `last: ${duration(last.elapsed_seconds)}, ${route ?? site}`
          : '',
    );
    const total = stalls.reduce((sum, stall) => sum + stall.elapsed_seconds, 0);
    setAttribute(
      picture,
      'aria-label',
      `worker ${worker.index} of ${runtime.name}, last minute: ${plural(stalls.length, 'stall')}, ${duration(total)} in total`,
    );
    const base = (this.base ??= Math.floor(this.live.now_unix_seconds));
    const [busy, red] = picture.firstChild.children;
    sync(
      red,
      stalls,
      (stall) => stall.id,
      () => make('svg:rect', { y: 0, height: 10 }),
      (rect, stall) => {
        setAttribute(rect, 'x', (stall.started_at_unix_seconds - base).toFixed(3));
        setAttribute(rect, 'width', Math.max(MIN_SECONDS, stall.elapsed_seconds).toFixed(3));
        setAttribute(rect, 'class', `cause-${stall.cause}`);
        setAttribute(rect, 'data-ongoing', stall.phase === 'ongoing');
      },
    );
    sync(
      busy,
      this.busy(runtime.name, worker.index),
      (part) => part.from,
      () => make('svg:rect', {}),
      (rect, part) => {
        setAttribute(rect, 'x', (part.from - base).toFixed(2));
        setAttribute(rect, 'width', (part.to - part.from).toFixed(2));
        setAttribute(rect, 'y', (10 - 10 * part.share).toFixed(2));
        setAttribute(rect, 'height', (10 * part.share).toFixed(2));
      },
    );
  }

  /** Returns how busy a worker was between the samples of the last minute. */
  busy(runtime, worker) {
    const seconds = (sample) => sample.runtimes.get(runtime)?.workers[worker]?.busy_seconds_total;
    const parts = [];
    const samples = this.history.samples.filter(
      (sample) => sample.at >= this.live.now_unix_seconds - STRIP_SECONDS - 2,
    );
    for (let i = 1; i < samples.length; i++) {
      const [from, to] = [samples[i - 1], samples[i]];
      const share = (seconds(to) - seconds(from)) / (to.at - from.at);
      if (share > 0.005) parts.push({ from: from.at, to: to.at, share: Math.min(1, share) });
    }
    return parts;
  }

  tick() {
    if (!this.live) return;
    const { sinceResponse } = this;
    if (this.ticking) setText(byId('verdict-line'), `${this.prefix}${duration(this.elapsed(this.ticking))} so far`);
    const now = this.live.now_unix_seconds + sinceResponse - (this.base ?? 0);
    for (const strip of document.querySelectorAll('.worker')) {
      const { worker } = strip;
      if (worker.state === 'stalled') setText(strip.children[1], `blocked ${duration(this.elapsed(worker))}`);
      const moving = strip.children[2].firstChild;
      moving.setAttribute('transform', `translate(${(STRIP_SECONDS - now).toFixed(2)} 0)`);
      if (worker.elapsed_seconds < INTERVAL_SECONDS) continue;
      for (const rect of moving.lastChild.querySelectorAll('[data-ongoing]')) {
        rect.setAttribute('width', Math.max(MIN_SECONDS, now - rect.getAttribute('x')).toFixed(3));
      }
    }
  }
}

/** Returns what identifies a poll: its route, if it has one, and its site. */
function whereOf({ route, parent_route: parent, watched, site, certainty = 'measured' }) {
  return { route: route ?? parent, site: certainty === 'measured' ? (watched ?? site) : 'an unwatched task' };
}

/** Describes where and why a worker is blocked, in one line. */
function describe(worker, history) {
  const stall = history.stalls.get(worker.stall);
  const [own, now] = [whereOf(stall ?? worker), whereOf(worker)];
  const reason = stall && reasonFor(stall);
  return [own.route ?? now.route ?? own.site, reason, stall?.stack && frameOf(stall.stack)]
    .filter(Boolean)
    .join(' · ');
}

/** Returns the reason of a stall, in the words of the log. */
function reasonFor(stall) {
  const suspected = stall.certainty === 'suspected' ? 'suspected: ' : '';
  return suspected + causeOf(stall);
}

function causeOf(stall) {
  const call = stall.syscall
    ? ` (${stall.syscall.name}${stall.syscall.target ? ` on ${stall.syscall.target}` : ''})`
    : '';
  if (stall.cause === 'unknown') return stall.reason || 'ended before it was inspected';
  return ['cpu', 'starved', 'paused'].includes(stall.cause) ? stall.reason : `${stall.reason}${call}`;
}

const atOf = (frame) => (frame.file ? `${frame.file}${frame.line ? `:${frame.line}` : ''}` : '');

/** Returns the innermost function of the program, otherwise of a dependency. */
const ownFrame = (stack) =>
  stack.frames.find((frame) => frame.of === 'program') ??
  stack.frames.find((frame) => frame.of === 'dependency') ??
  stack.frames[0];

function frameOf(stack) {
  const frame = ownFrame(stack);
  return frame && `${frame.name}${frame.file ? ` (${atOf(frame)})` : ''}`;
}
