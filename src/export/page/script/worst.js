// What blocks: the stalls of the last minute, summed by route or site, by descending time.

const SHOWN = 4;

class Worst {
  constructor(history) {
    this.history = history;
  }

  show(live, groups = this.groups(live)) {
    const all = groups.reduce((sum, group) => sum + group.seconds, 0);
    sync(
      byId('offenders'),
      groups.slice(0, SHOWN),
      (group) => group.key,
      () => this.create(),
      (element, group) => this.update(element, group, all),
    );
    const empty = byId('offenders-empty');
    empty.hidden = groups.length > 0;
    setText(empty, `No poll has blocked a worker for ${duration(live.threshold_seconds)} or longer in the last minute.`);
    setText(
      byId('worst-hint'),
      `in the last minute${groups.length > SHOWN ? `, the worst ${SHOWN} of ${groups.length}` : ''}`,
    );
  }

  groups(live) {
    const recent = this.history.stallsEndedSince(live.now_unix_seconds - 60);
    const routes = routesOfSites(recent);
    const groups = new Map();
    for (const stall of recent) {
      const { route: own, site } = whereOf(stall);
      const route = own ?? routes.get(stall.site);
      const blamed = stall.cause !== 'starved' && stall.cause !== 'paused';
      const key = blamed ? `${route ?? site}\n${stall.runtime}` : stall.cause;
      if (!groups.has(key)) groups.set(key, { key, stalls: [], seconds: 0, longest: 0 });
      const group = groups.get(key);
      group.stalls.push(stall);
      group.seconds += stall.elapsed_seconds;
      group.longest = Math.max(group.longest, stall.elapsed_seconds);
      Object.assign(group, {
        name: blamed ? (route ?? site) : `Not caused by a task: ${stall.cause}`,
        spawned: !stall.route,
        isRoute: blamed && !!route,
        blamed,
      });
      // The example is the latest stall with a stack.
      if (!group.example?.stack || stall.stack) group.example = stall;
    }
    return [...groups.values()].sort((a, b) => b.blamed - a.blamed || b.seconds - a.seconds);
  }

  create() {
    const row = (name) => make('p', { class: name });
    return make(
      'li',
      { class: 'offender' },
      make(
        'div',
        { class: 'offender-head' },
        make('strong', { class: 'offender-name' }),
        make('span', { class: 'offender-time' }),
      ),
      make('div', { class: 'meter', 'aria-hidden': true }, make('div')),
      make('p', { class: 'offender-why' }, make('span', { class: 'cause' }), make('span')),
      row('offender-where'),
      row('advice'),
    );
  }

  update(element, group, all) {
    const [head, meter, why, where, advice] = element.children;
    const { example } = group;
    setAttribute(element, 'data-cause', example.cause);
    const [name, time] = head.children;
    if (name.shown !== group.name) {
      name.replaceChildren(
        named(group.name),
        group.isRoute && group.spawned ? make('span', { class: 'tag', text: 'spawned by its handler' }) : '',
      );
      name.shown = group.name;
    }
    setText(
      time,
      `${duration(group.seconds)} in ${plural(group.stalls.length, 'stall')}, up to ${duration(group.longest)}`,
    );
    meter.firstChild.style.width = `${(group.seconds / all) * 100}%`;
    setCause(why.children[0], example.cause);
    setText(why.children[1], reasonFor(example));
    const frame = example.stack && ownFrame(example.stack);
    const text = frame ? `${frame.name}\n${atOf(frame)}` : '';
    where.hidden = !frame;
    if (where.shown !== text) {
      where.replaceChildren(
        'in ',
        named(frame?.name ?? '', { class: 'name code' }),
        ' at ',
        named(frame ? atOf(frame) : '', { class: 'name code at' }),
      );
      where.shown = text;
    }
    advice.hidden = !example.advice;
    setText(advice, example.advice ?? '');
  }
}

/**
 * Returns the sites whose tasks were all spawned under one route. It applies to their stalls that
 * ended before they were inspected, too.
 */
function routesOfSites(stalls) {
  const routes = new Map();
  for (const { site, route, parent_route: under } of stalls) {
    if (!route && under) routes.set(site, [undefined, under].includes(routes.get(site)) ? under : null);
  }
  return routes;
}

/** Shows a cause in its colour. */
function setCause(element, cause) {
  setAttribute(element, 'class', `cause cause-${cause}`);
  setText(element, cause);
}
