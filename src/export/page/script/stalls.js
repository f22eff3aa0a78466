// The recent stalls. The list does not change while it is being read, and shows how many stalls are
// new.

const PAGE = 12;
const MAX_SHOWN = 200;

class Stalls {
  constructor(history) {
    this.history = history;
    this.shown = PAGE;
    this.list = byId('stall-list');
    byId('stalls-more').addEventListener('click', () => {
      this.shown = Math.min(MAX_SHOWN, this.shown * 3);
      this.render(true);
    });
    byId('stalls-newer').addEventListener('click', () => {
      this.list.querySelectorAll('details[open]').forEach((details) => (details.open = false));
      this.render(true);
      this.list.querySelector('summary')?.focus();
    });
  }

  show(live) {
    this.live = live;
    this.render(false);
  }

  get isBeingRead() {
    return this.list.querySelector('details[open]') !== null || this.list.matches(':hover, :focus-within');
  }

  render(refresh) {
    const all = this.history.latestStalls;
    const held = !refresh && this.isBeingRead && this.first !== undefined;
    if (!held) this.first = all[0]?.id;
    // Stalls that left the history stay in the list while it is being read.
    const visible = all.filter((stall) => stall.id <= this.first).slice(0, this.shown);
    const items = held ? this.keep(visible) : visible;
    this.items = items;
    sync(
      this.list,
      items,
      (stall) => stall.id,
      (stall) => this.create(stall),
      (element, stall) => this.update(element, stall),
    );
    const newer = all.filter((stall) => stall.id > this.first).length;
    byId('stalls-newer').hidden = newer === 0;
    setText(byId('stalls-newer'), `Show ${plural(newer, 'newer stall')}`);
    byId('stalls-more').hidden = all.length <= this.shown || this.shown >= MAX_SHOWN;
    setText(byId('stalls-more'), 'Show more');
    setText(byId('stalls-hint'), all.length ? 'click a stall to see its stack' : '');
    byId('stalls-empty').hidden = all.length > 0;
    document.querySelector('.stall-columns').hidden = all.length === 0;
    setText(
      byId('stalls-empty'),
      `No stalls yet: no poll has blocked a worker for ${duration(this.live.threshold_seconds)} or longer.`,
    );
  }

  keep(visible) {
    const ids = new Set(visible.map((stall) => stall.id));
    const removed = (this.items ?? []).filter((stall) => !ids.has(stall.id));
    return [...visible, ...removed].sort((a, b) => b.id - a.id);
  }

  create() {
    const cells = ['stall-id', 'stall-started', 'stall-time', 'cause', 'stall-where', 'stall-why'].map((name) =>
      make('span', { class: name }),
    );
    const details = make('details', { toggle: () => this.fill(details) }, make('summary', {}, ...cells));
    return make('li', { class: 'stall' }, details);
  }

  update(element, stall) {
    const details = element.firstChild;
    const [id, started, time, cause, where, why] = details.firstChild.children;
    details.stall = stall;
    setAttribute(element, 'data-phase', stall.phase);
    setText(id, `#${stall.id}`);
    setText(started, clock(stall.started_at_unix_seconds));
    const least = stall.elapsed_is_lower_bound ? '≥ ' : '';
    setText(time, least + duration(stall.elapsed_seconds) + (stall.phase === 'ongoing' ? ' so far' : ''));
    setCause(cause, stall.cause);
    const { route, site } = whereOf(stall);
    if (where.shown !== (route ?? site)) {
      where.replaceChildren(named(route ?? site));
      where.shown = route ?? site;
    }
    setText(why, reasonFor(stall));
    if (details.open) this.fill(details);
  }

  /** Creates the details of a stall when it is opened, and again when it has changed. */
  fill(details) {
    const { stall } = details;
    const version = `${stall.phase} ${stall.elapsed_seconds} ${stall.location_changed} ${stall.stack} ${stall.segments.length} ${stall.reason} ${stall.advice} ${JSON.stringify(stall.lock)} ${JSON.stringify(stall.pool)} ${stall.victims?.tasks}`;
    if (!details.open || details.version === version) return;
    details.version = version;
    details.querySelector('.stall-body')?.remove();
    details.append(
      make(
        'div',
        { class: 'stall-body' },
        stall.advice && make('p', { class: 'advice', text: stall.advice }),
        this.facts(stall),
        segmentsOf(stall),
        stall.stack ? stackOf(stall) : make('p', { class: 'empty', text: noStack(stall) }),
      ),
    );
  }

  facts(stall) {
    const facts = [
      ['route', stall.route],
      ['spawned under route', stall.parent_route],
      [
        stall.task ? `task ${stall.task}${stall.task_name ? ` "${stall.task_name}"` : ''} spawned at` : 'future watched at',
        (stall.certainty ?? 'measured') === 'measured' ? stall.site : null,
      ],
      [
        'known',
        {
          observed: 'from outside, by inspecting the worker',
          suspected: 'from outside, by inference: it may be wrong',
        }[stall.certainty],
      ],
      ['within the future watched at', stall.watched === stall.site ? null : stall.watched],
      ['spans', stall.spans.join(' › ') || null],
      [
        'worker',
        stall.worker === null
          ? `${stall.certainty === 'measured' ? 'none: the root' : 'one'} of ${stall.runtime}, thread ${stall.thread}`
          : `${stall.worker} of ${stall.runtime}, thread ${stall.thread}`,
      ],
      [
        'system call',
        stall.syscall && `${stall.syscall.name}${stall.syscall.target ? ` on ${stall.syscall.target}` : ''}`,
      ],
      ['waits for the lock at', stall.lock?.address],
      ['which is held by', stall.lock && holderOf(stall.lock)],
      ['deadlock', stall.lock?.is_deadlock && 'each of its threads waits for a lock that the next one holds'],
      ['the pool', stall.pool && poolOf(stall.pool)],
      ['CPU time', stall.on_cpu_seconds === null ? null : `${duration(stall.on_cpu_seconds)} since it was detected`],
      ['of that in the kernel', stall.system_time_seconds ? duration(stall.system_time_seconds) : null],
      ['page faults', stall.page_faults && `${count(stall.page_faults.minor)}, and ${count(stall.page_faults.major)} that waited for the page`],
      ['victims', stall.victims?.text],
      ['CPUs withheld by the hypervisor', stall.steal_seconds ? duration(stall.steal_seconds) : null],
    ];
    return make(
      'dl',
      { class: 'facts' },
      ...facts
        .filter(([, value]) => value)
        .map(([name, value]) => make('div', {}, make('dt', { text: name }), make('dd', {}, named(value)))),
    );
  }
}

/** Returns who holds a lock. Only a lock that records its owner makes that certain. */
function holderOf({ holder }) {
  if (holder === 'no_running_code') return 'no running code: it seems that a guard is kept across an .await';
  if (!holder.thread) return 'unknown';
  const { name, tid, is_waiting_itself: itself, is_recorded: recorded, site, location } = holder.thread;
  const who = itself ? 'this same thread' : `thread ${name} (${tid})`;
  const line = location?.file ? ` (${atOf(location)})` : '';
  const at = location ? ` at ${location.function ?? location.module ?? 'an unknown function'}${line}` : '';
  const task = site ? `, in a task spawned at ${site}` : '';
  return `${who}${recorded ? '' : ', it seems,'}${at}${task}`;
}

/** Returns what the threads of the pool do that a task waits for. */
function poolOf({ location, threads, threads_read: read }) {
  const line = location.file ? ` (${atOf(location)})` : '';
  return `${threads} of ${plural(read, 'rayon thread')} in ${location.function ?? location.module}${line}`;
}

function noStack(stall) {
  if (stall.phase === 'ongoing') return 'No stack yet.';
  return 'No stack: the stall ended before a stack could be captured, or captures are not available (see “pollwatch itself”).';
}

/** Returns what the thread did one after the other, if that was more than one thing. */
function segmentsOf(stall) {
  const { segments, merged_segments: merged } = stall;
  if (segments.length < 2) return null;
  const row = (segment) =>
    make(
      'li',
      { class: 'segment' },
      make('span', { class: 'segment-time', text: duration(segment.to_seconds - segment.from_seconds) }),
      make('span', { class: `cause cause-${segment.cause}`, text: segment.cause }),
      make('span', { text: causeOf(segment) }),
      segment.location && named(segment.location, { class: 'name code at' }),
    );
  return make(
    'div',
    { class: 'segments' },
    make('h3', { text: stall.phase === 'ongoing' ? 'So far, the latest last' : 'One after the other' }),
    merged.count > 0
      ? make('p', { class: 'hint', text: `before: ${plural(merged.count, 'segment')}, ${duration(merged.seconds)}` })
      : null,
    make('ol', {}, ...segments.map(row)),
  );
}

function stackOf(stall) {
  const { frames, frames_left_out: more } = stall.stack;
  const still = stall.phase === 'ongoing' && stall.location_changed === false ? ', unchanged at the latest scan' : '';
  const rows = frames.map((frame) =>
    make(
      'li',
      { class: `frame of-${frame.of}` },
      named(frame.name, { class: 'name code' }),
      ' ',
      named(atOf(frame), { class: 'name code at' }),
    ),
  );
  return make(
    'div',
    { class: 'stack' },
    make('h3', { text: `Stack, innermost function first${still}` }),
    make('ol', {}, ...rows),
    more ? make('p', { class: 'hint', text: `${plural(more, 'outer function')} of the runtime` }) : null,
  );
}
