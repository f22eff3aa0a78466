// The last stalls. While somebody reads one of them the list stands still, and says how many have come since.

const PAGE = 12;
const MOST_SHOWN = 200;

class Stalls {
  constructor(history) {
    this.history = history;
    this.shown = PAGE;
    this.list = byId('stall-list');
    byId('stalls-more').addEventListener('click', () => {
      this.shown = Math.min(MOST_SHOWN, this.shown * 3);
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

  get isRead() {
    return this.list.querySelector('details[open]') !== null || this.list.matches(':hover, :focus-within');
  }

  render(fresh) {
    const all = this.history.latestStalls;
    const held = !fresh && this.isRead && this.first !== undefined;
    if (!held) this.first = all[0]?.id;
    // Those that were forgotten meanwhile stay as long as they are read.
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
    byId('stalls-more').hidden = all.length <= this.shown || this.shown >= MOST_SHOWN;
    setText(byId('stalls-more'), 'Show more');
    setText(byId('stalls-hint'), all.length ? 'a click opens the stack' : '');
    byId('stalls-empty').hidden = all.length > 0;
    document.querySelector('.stall-columns').hidden = all.length === 0;
    setText(
      byId('stalls-empty'),
      `No stall so far: no poll has kept a worker for ${duration(this.live.threshold_seconds)} or longer.`,
    );
  }

  keep(visible) {
    const ids = new Set(visible.map((stall) => stall.id));
    const gone = (this.items ?? []).filter((stall) => !ids.has(stall.id));
    return [...visible, ...gone].sort((a, b) => b.id - a.id);
  }

  create() {
    const cells = ['stall-id', 'stall-began', 'stall-time', 'cause', 'stall-where', 'stall-why'].map((name) =>
      make('span', { class: name }),
    );
    const details = make('details', { toggle: () => this.fill(details) }, make('summary', {}, ...cells));
    return make('li', { class: 'stall' }, details);
  }

  update(element, stall) {
    const details = element.firstChild;
    const [id, began, time, cause, where, why] = details.firstChild.children;
    details.stall = stall;
    setAttribute(element, 'data-phase', stall.phase);
    setText(id, `#${stall.id}`);
    setText(began, clock(stall.started_at_unix_seconds));
    const least = stall.elapsed_is_lower_bound ? '≥ ' : '';
    setText(time, least + duration(stall.elapsed_seconds) + (stall.phase === 'ongoing' ? ' so far' : ''));
    setCause(cause, stall.cause);
    const { where: route, place } = whereOf(stall);
    if (where.shown !== (route ?? place)) {
      where.replaceChildren(named(route ?? place));
      where.shown = route ?? place;
    }
    setText(why, reasonFor(stall));
    if (details.open) this.fill(details);
  }

  /** The whole of a stall, made when it is opened and when it has changed. */
  fill(details) {
    const { stall } = details;
    const version = `${stall.phase} ${stall.elapsed_seconds} ${stall.location_changed} ${!!stall.stack}`;
    if (!details.open || details.version === version) return;
    details.version = version;
    details.querySelector('.stall-body')?.remove();
    details.append(
      make(
        'div',
        { class: 'stall-body' },
        stall.advice && make('p', { class: 'advice', text: stall.advice }),
        this.facts(stall),
        stall.stack ? stackOf(stall) : make('p', { class: 'empty', text: noStack(stall) }),
      ),
    );
  }

  facts(stall) {
    const facts = [
      ['route', stall.route],
      ['spawned under route', stall.parent_route],
      [
        stall.task ? `task ${stall.task} spawned at` : 'future watched at',
        (stall.certainty ?? 'measured') === 'measured' ? stall.site : null,
      ],
      [
        'known',
        {
          certain: 'by looking at the worker from outside',
          suspected: 'by looking at the worker from outside; it need not be so',
        }[stall.certainty],
      ],
      ['within the future watched at', stall.watched === stall.site ? null : stall.watched],
      ['spans', stall.spans.join(' › ') || null],
      ['worker', stall.worker === null ? null : `${stall.worker} of ${stall.runtime}, thread ${stall.thread}`],
      [
        'system call',
        stall.syscall && `${stall.syscall.name}${stall.syscall.target ? ` on ${stall.syscall.target}` : ''}`,
      ],
      ['CPU time', stall.on_cpu_seconds === null ? null : `${duration(stall.on_cpu_seconds)} since it was seen`],
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

function noStack(stall) {
  if (stall.phase === 'ongoing') return 'No stack yet.';
  return 'No stack: it was over before one could be taken, or stacks are not taken here (see “pollwatch itself”).';
}

function stackOf(stall) {
  const { frames, frames_left_out: more } = stall.stack;
  const still = stall.phase === 'ongoing' && stall.location_changed === false ? ', still there at the latest look' : '';
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
    more ? make('p', { class: 'hint', text: `${plural(more, 'function')} of the runtime further out` }) : null,
  );
}
