// The flame graph of blocked time, from the runtime inwards, with filters, search and zoom.

const CAUSES = ['cpu', 'syscall', 'lock', 'starved', 'paused', 'unknown'];
const ROW_PIXELS = 24;
/** The minimal share of the width: a narrower box could not be clicked. */
const MIN_SHARE = 0.0015;
const MAX_BOXES = 3000;
const PROFILE_SECONDS = 10;
/** The value of “all”, which is never the name of a site or route. */
const ANY = '\n';

class Flame {
  constructor() {
    this.zoom = [];
    this.search = '';
    this.graph = byId('flame-graph');
    this.filters = { cause: byId('flame-cause'), route: byId('flame-route'), site: byId('flame-site') };
    for (const select of Object.values(this.filters)) select.addEventListener('change', () => this.render());
    byId('flame-search').addEventListener('input', (event) => {
      this.search = event.target.value.trim().toLowerCase();
      this.render();
    });
    byId('flame-reset').addEventListener('click', () => this.zoomTo([]));
    this.graph.addEventListener('click', (event) => this.on(event, (node) => this.zoomTo(node.path)));
    for (const kind of ['pointerover', 'focusin'])
      this.graph.addEventListener(kind, (event) => this.on(event, (node) => this.describe(node)));
    this.graph.addEventListener('keydown', (event) => this.key(event));
    new IntersectionObserver(([entry]) => (this.isVisible = entry.isIntersecting), { rootMargin: '300px' }).observe(
      byId('flame'),
    );
  }

  /** Returns whether to request the profile: it is visible, and there is new blocked time. */
  wants(blockedSeconds) {
    const now = performance.now();
    if (
      !this.isVisible ||
      (this.drawn === blockedSeconds && this.isSettled && this.profile) ||
      now - (this.requestedAt ?? -Infinity) < PROFILE_SECONDS * 1000
    )
      return false;
    // The profile gets the latest time when its stacks are symbolized: it is requested once more.
    Object.assign(this, { requestedAt: now, isSettled: this.drawn === blockedSeconds, drawn: blockedSeconds });
    return true;
  }

  /** Requests the profile again: the process has been restarted. */
  invalidate() {
    this.requestedAt = undefined;
  }

  show(profile) {
    this.profile = profile;
    const totals = (read) => {
      const sums = new Map();
      for (const entry of profile.entries) {
        const name = read(entry);
        if (name !== null) sums.set(name, (sums.get(name) ?? 0) + entry.stalled_seconds);
      }
      return [...sums].sort((a, b) => b[1] - a[1]);
    };
    this.options(
      'cause',
      'all causes',
      totals((entry) => entry.cause),
    );
    this.options(
      'route',
      'all routes',
      totals((entry) => entry.route ?? entry.parent_route),
    );
    this.options(
      'site',
      'all sites',
      totals((entry) => entry.site),
    );
    this.render();
  }

  options(filter, all, totals) {
    const select = this.filters[filter];
    const { value } = select;
    sync(
      select,
      [[ANY, 0], ...totals],
      ([name]) => name,
      ([name]) => make('option', { value: name }),
      (option, [name, sum]) => setText(option, name === ANY ? all : `${name} (${duration(sum)})`),
    );
    select.value = totals.some(([name]) => name === value) ? value : ANY;
  }

  tree() {
    const [cause, route, site] = ['cause', 'route', 'site'].map((name) => this.filters[name].value);
    const root = newNode('all', { path: [], group: true });
    for (const entry of this.profile.entries) {
      const own = entry.route ?? entry.parent_route;
      if (
        (cause !== ANY && entry.cause !== cause) ||
        (route !== ANY && own !== route) ||
        (site !== ANY && entry.site !== site)
      )
        continue;
      let node = root;
      add(node, entry);
      for (const level of this.levels(entry)) add((node = child(node, level)), entry);
    }
    return root;
  }

  /** Returns the levels from the runtime to the function, as in the downloads. */
  levels(entry) {
    const group = (name) => ({ name, group: true });
    const blamed = entry.cause !== 'starved' && entry.cause !== 'paused';
    const functions = entry.stack.map((index) => this.profile.frames[index]);
    return [
      group(entry.runtime),
      ...(blamed ? [] : [group(`[${entry.cause}]`)]),
      ...((entry.route ?? entry.parent_route) ? [group(entry.route ?? entry.parent_route)] : []),
      ...(entry.route ? [] : [group(entry.site)]),
      ...(functions.length ? functions : [{ name: `[no stack: ${entry.cause}]` }]),
    ];
  }

  render() {
    if (!this.profile) return;
    const root = this.tree();
    const isEmpty = root.seconds === 0;
    byId('flame-empty').hidden = !isEmpty;
    byId('flame-controls').hidden = this.profile.entries.length === 0;
    byId('flame-total').hidden = byId('flame-detail').hidden = isEmpty;
    setText(
      byId('flame-empty'),
      this.profile.entries.length
        ? 'No stall matches these filters.'
        : 'No stalls yet.',
    );
    // Keep the zoom as far as its path still exists.
    let focus = root;
    const above = [root];
    for (const step of this.zoom) {
      const next = focus.children.get(step);
      if (!next) break;
      above.push((focus = next));
    }
    this.zoom = focus.path;
    byId('flame-reset').disabled = focus === root;
    const boxes = [];
    above.slice(0, -1).forEach((node, depth) => boxes.push({ node, depth, left: 0, width: 1, above: true }));
    if (!isEmpty) this.place(focus, above.length - 1, 0, 1, focus.seconds, boxes);
    const active = this.graph.contains(document.activeElement) ? document.activeElement.node.key : null;
    const matched = this.search ? this.match(root) : 0;
    const depth = boxes.reduce((most, box) => Math.max(most, box.depth), -1);
    this.graph.style.height = `${(depth + 1) * ROW_PIXELS}px`;
    this.graph.hidden = isEmpty;
    const stop = boxes.find((box) => box.node.key === active) ?? boxes[above.length - 1];
    sync(
      this.graph,
      boxes,
      (box) => box.node.key,
      () => make('div', { role: 'treeitem' }, make('span')),
      (element, box) => this.draw(element, box, root, box === stop),
    );
    const scope = focus === root ? 'in total' : `of ${duration(root.seconds)}, in ${focus.name}`;
    const hits = this.search
      ? `; ${percent(root.seconds ? matched / root.seconds : 0)} of the time matches “${byId('flame-search').value.trim()}”`
      : '';
    setText(
      byId('flame-total'),
      isEmpty ? '' : `${duration(focus.seconds)} blocked ${scope}, ${plural(focus.stalls, 'stall')}${hits}`,
    );
    this.legend(root);
    this.describe(this.described && find(root, this.described), root);
  }

  place(node, depth, left, width, whole, boxes) {
    if (boxes.length >= MAX_BOXES) return;
    boxes.push({ node, depth, left, width });
    let at = left;
    for (const child of [...node.children.values()].sort((a, b) => b.seconds - a.seconds)) {
      const wide = child.seconds / whole;
      if (wide >= MIN_SHARE) this.place(child, depth + 1, at, wide, whole, boxes);
      at += wide;
    }
  }

  /** Marks the matches of the search, and returns the time of the outermost ones. */
  match(node, within = false) {
    const hit = `${node.name}\n${node.file ?? ''}`.toLowerCase().includes(this.search);
    node.hit = hit;
    const inner = [...node.children.values()].reduce((sum, child) => sum + this.match(child, within || hit), 0);
    return within ? 0 : hit ? node.seconds : inner;
  }

  draw(element, { node, depth, left, width, above }, root, isStop) {
    element.node = node;
    const [cause] = mainCause(node);
    setAttribute(
      element,
      'class',
      `box ${node.group ? 'group' : `cause-${cause}`}${above ? ' above' : ''}${this.search ? (node.hit ? ' hit' : ' miss') : ''}`,
    );
    Object.assign(element.style, { left: `${left * 100}%`, width: `${width * 100}%`, top: `${depth * ROW_PIXELS}px` });
    setText(element.firstChild, shortName(node.name, width));
    setAttribute(
      element,
      'aria-label',
      `${node.name}, ${duration(node.seconds)}, ${percent(node.seconds / root.seconds)}`,
    );
    setAttribute(element, 'aria-level', depth + 1);
    setAttribute(element, 'aria-expanded', node.children.size > 0 ? 'true' : null);
    setAttribute(element, 'tabindex', isStop ? 0 : -1);
    element.share = node.seconds / root.seconds;
  }

  on(event, act) {
    const box = event.target.closest('.box');
    if (box) act(box.node, box);
  }

  zoomTo(path) {
    this.zoom = path;
    this.render();
  }

  describe(node, root = this.root) {
    this.root = root;
    const element = byId('flame-detail');
    this.described = node?.key;
    if (!node)
      return setText(
        element,
        root?.seconds
          ? 'Width is blocked time. Hover for details, click to zoom in, press Escape to zoom out, and move with the arrow keys.'
          : '',
      );
    const lines = [...node.lines].sort((a, b) => a - b);
    const at = node.file ? ` · ${node.file}${lines.length ? `:${lines.join(', ')}` : ''}` : '';
    const causes = [...node.causes]
      .sort((a, b) => b[1] - a[1])
      .map(([cause, sum]) => `${cause} ${duration(sum)}`)
      .join(', ');
    setText(
      element,
      `${node.name}${at} · ${duration(node.seconds)} blocked${root ? ` (${percent(node.seconds / root.seconds)})` : ''}, ${plural(node.stalls, 'stall')} · ${causes}`,
    );
  }

  legend(root) {
    const causes = CAUSES.filter((cause) => root.causes.has(cause));
    sync(
      byId('flame-legend'),
      causes,
      (cause) => cause,
      (cause) => make('li', {}, make('span', { class: `cause cause-${cause}`, text: cause }), ' ', make('span')),
      (element, cause) => setText(element.lastChild, duration(root.causes.get(cause))),
    );
  }

  key(event) {
    const box = event.target.closest('.box');
    if (!box) return;
    const boxes = [...this.graph.children];
    const level = (element) => Number(element.getAttribute('aria-level'));
    const [own, at] = [level(box), boxes.indexOf(box)];
    const moves = {
      ArrowDown: () => boxes[at + 1] && level(boxes[at + 1]) > own && boxes[at + 1],
      ArrowUp: () => boxes.slice(0, at).findLast((other) => level(other) < own),
      ArrowRight: () => boxes.slice(at + 1).find((other) => level(other) === own),
      ArrowLeft: () => boxes.slice(0, at).findLast((other) => level(other) === own),
      Home: () => boxes[0],
      End: () => boxes.at(-1),
    };
    if (event.key === 'Enter' || event.key === ' ') this.zoomTo(box.node.path);
    else if (event.key === 'Escape') this.zoomTo(this.zoom.slice(0, -1));
    else if (moves[event.key]) {
      const next = moves[event.key]();
      if (next) {
        box.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      }
    } else return;
    event.preventDefault();
  }
}

function newNode(name, more) {
  return { name, seconds: 0, stalls: 0, causes: new Map(), children: new Map(), lines: new Set(), key: '', ...more };
}

function add(node, entry) {
  node.seconds += entry.stalled_seconds;
  node.stalls += entry.stalls;
  node.causes.set(entry.cause, (node.causes.get(entry.cause) ?? 0) + entry.stalled_seconds);
}

/** Returns the child of a level. One function at two lines is one child. */
function child(node, { name, file = null, line = null, group = false }) {
  const step = `${name}\n${file}\n${group}`;
  if (!node.children.has(step)) {
    const path = [...node.path, step];
    node.children.set(step, newNode(name, { file, group, path, key: path.join('\r') }));
  }
  const found = node.children.get(step);
  if (line !== null) found.lines.add(line);
  return found;
}

function find(node, key) {
  if (node.key === key) return node;
  for (const child of node.children.values()) {
    const found = key.startsWith(child.key) && find(child, key);
    if (found) return found;
  }
  return undefined;
}

/** Returns the cause of most of the blocked time, and that time. A known cause wins a tie with `unknown`. */
function mainCause(node) {
  const known = [...node.causes].filter(([cause]) => cause !== 'unknown');
  const unknown = ['unknown', node.causes.get('unknown') ?? 0];
  return [...known, unknown].reduce((most, cause) => (cause[1] > most[1] ? cause : most));
}

/** Shortens a path of modules or files to its last parts. */
function shortName(name, width) {
  const limit = Math.max(8, width * 150);
  if (name.length <= limit) return name;
  const parts = name.split(/(?<=::|\/)/);
  while (parts.length > 1 && parts.join('').length > limit) parts.shift();
  return parts.join('');
}
