// Tables that are sorted by a click on a heading.

const FIRST_ROWS = 10;

class Table {
  /** A column has a key, a title, `text`, a `value` to sort by if it is a number, maybe a `bar`. */
  constructor(id, caption, columns, keyOf) {
    Object.assign(this, { id, columns, keyOf, rows: [], all: false, sort: { key: columns[1].key, down: true } });
    this.headings = columns.map((column) =>
      make(
        'th',
        { scope: 'col', class: column.value ? 'number' : 'text' },
        make('button', { type: 'button', title: column.hint, click: () => this.sortBy(column) }, column.title),
      ),
    );
    this.body = make('tbody');
    this.more = make('button', {
      type: 'button',
      class: 'more',
      click: () => {
        this.all = !this.all;
        this.render();
      },
    });
    this.table = make(
      'table',
      {},
      make('caption', { class: 'sr', text: caption }),
      make('thead', {}, make('tr', {}, ...this.headings)),
      this.body,
    );
    byId(`${id}-table`).append(this.table);
    byId(`${id}-table`).after(this.more);
  }

  sortBy({ key, value }) {
    this.sort = this.sort.key === key ? { key, down: !this.sort.down } : { key, down: !!value };
    this.render();
  }

  show(rows, leftOut, empty) {
    Object.assign(this, { rows, leftOut });
    byId(`${this.id}-empty`).hidden = rows.length > 0;
    byId(`${this.id}-table`).hidden = rows.length === 0;
    setText(byId(`${this.id}-empty`), empty);
    this.render();
  }

  render() {
    const { columns, sort, rows } = this;
    columns.forEach((column, i) =>
      setAttribute(
        this.headings[i],
        'aria-sort',
        column.key === sort.key ? (sort.down ? 'descending' : 'ascending') : null,
      ),
    );
    // A column of what is not tracked has no values.
    columns.forEach((column, i) => {
      this.headings[i].hidden = !!column.optional && !rows.some(column.optional);
    });
    const by = columns.find((column) => column.key === sort.key);
    const order = (a, b) => (by.value ? by.value(a) - by.value(b) : by.text(a).localeCompare(by.text(b)));
    const sorted = [...rows].sort(
      (a, b) => (sort.down ? order(b, a) : order(a, b)) || columns[1].value(b) - columns[1].value(a),
    );
    const most = new Map(
      columns.filter((column) => column.bar).map((column) => [column, Math.max(...rows.map(column.value), 1e-9)]),
    );
    sync(
      this.body,
      this.all ? sorted : sorted.slice(0, FIRST_ROWS),
      this.keyOf,
      (row) => this.create(row),
      (element, row) => {
        columns.forEach((column, i) => {
          if (i === 0) return;
          const cell = element.children[i];
          cell.hidden = this.headings[i].hidden;
          setText(cell.lastChild, column.text(row));
          setAttribute(cell, 'data-zero', !column.value(row));
          if (column.bar) cell.firstChild.style.width = `${(column.value(row) / most.get(column)) * 100}%`;
        });
      },
    );
    this.more.hidden = rows.length <= FIRST_ROWS;
    const more = this.leftOut ? ` of ${rows.length + this.leftOut}` : '';
    setText(this.more, this.all ? 'Show the first ten' : `Show all ${rows.length}${more}`);
  }

  create(row) {
    const cell = (column) =>
      make('td', { class: 'number' }, column.bar ? make('i', { 'aria-hidden': true }) : null, make('span'));
    return make(
      'tr',
      {},
      make('th', { scope: 'row' }, named(this.columns[0].text(row))),
      ...this.columns.slice(1).map(cell),
    );
  }
}

const seconds = (read) => ({ value: read, text: (row) => (read(row) ? duration(read(row)) : '0') });
const number = (read) => ({
  value: (row) => read(row) ?? 0,
  text: (row) => (read(row) === null ? '–' : count(read(row))),
});

class Tables {
  constructor(history) {
    this.history = history;
    const recent = (row) => row.recent;
    this.routes = new Table(
      'routes',
      'Routes by blocked time',
      [
        { key: 'route', title: 'Route', text: (row) => row.route },
        {
          key: 'blocked',
          title: 'Blocked',
          hint: 'Stalls of its requests, and of the tasks that its handlers spawned',
          bar: true,
          ...seconds((row) => row.stalled_seconds + row.spawned_stalled_seconds),
        },
        { key: 'recent', title: 'last minute', hint: 'Blocked in the last minute', ...seconds(recent) },
        { key: 'stalls', title: 'Stalls', ...number((row) => row.stalls + row.spawned_stalls) },
        {
          key: 'max',
          title: 'Longest poll',
          hint: 'Of its requests, without the tasks that they spawned',
          ...seconds((row) => row.max_seconds),
        },
        {
          key: 'busy',
          title: 'Busy',
          hint: 'Total duration of all polls of its requests',
          ...seconds((row) => row.busy_seconds),
        },
        {
          key: 'delay',
          title: 'Waited',
          hint: 'From the wakes of its tasks to their polls, in total',
          optional: (row) => row.delay_seconds !== null,
          ...seconds((row) => row.delay_seconds ?? 0),
        },
        { key: 'requests', title: 'Requests', ...number((row) => row.requests) },
      ],
      (row) => row.route,
    );
    this.sites = new Table(
      'sites',
      'Sites by blocked time',
      [
        { key: 'site', title: 'Site', text: (row) => row.site },
        {
          key: 'blocked',
          title: 'Blocked',
          hint: 'Stalls that the code of the site caused',
          bar: true,
          ...seconds((row) => row.stalled_seconds),
        },
        { key: 'recent', title: 'last minute', hint: 'Blocked in the last minute', ...seconds(recent) },
        { key: 'stalls', title: 'Stalls', ...number((row) => row.stalls) },
        { key: 'max', title: 'Longest poll', ...seconds((row) => row.max_seconds) },
        { key: 'busy', title: 'Busy', hint: 'Total duration of all polls', ...seconds((row) => row.busy_seconds) },
        {
          key: 'delay',
          title: 'Waited',
          hint: 'From the wakes of the tasks to their polls, in total',
          optional: (row) => row.delay_seconds !== null,
          ...seconds((row) => row.delay_seconds ?? 0),
        },
        { key: 'polls', title: 'Polls', ...number((row) => row.polls) },
        {
          key: 'unpolled',
          title: 'Not polled',
          hint: 'The longest time for which one of its tasks has waited for a poll',
          optional: (row) => row.unpolled_seconds !== null,
          ...seconds((row) => row.unpolled_seconds ?? 0),
        },
        { key: 'tasks', title: 'Tasks', hint: 'That have not ended', ...number((row) => row.alive_tasks) },
      ],
      (row) => `${row.runtime}\n${row.site}`,
    );
  }

  show(live) {
    const before = this.history.since(60);
    const withRecent = (row, sums, key, total) => ({ ...row, recent: Math.max(0, total - (sums.get(key) ?? 0)) });
    this.routes.show(
      live.routes.map((row) =>
        withRecent(row, before.routes, row.route, row.stalled_seconds + row.spawned_stalled_seconds),
      ),
      live.routes_left_out,
      'No requests yet. Routes appear here once the router has .layer(watchdog.layer()).',
    );
    this.sites.show(
      live.sites.map((row) => withRecent(row, before.sites, `${row.runtime}\n${row.site}`, row.stalled_seconds)),
      live.sites_left_out,
      'No polls yet.',
    );
  }
}
