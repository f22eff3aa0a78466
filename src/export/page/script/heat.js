// Distributions as heat maps: time on the x axis, duration on the y axis. The darker a cell, the
// larger its share of the column.

const COLUMN_SECONDS = 3;
const COLUMNS = (MINUTES * 60) / COLUMN_SECONDS;
const WINDOWS = [
  [10, '10 s'],
  [60, '1 min'],
  [300, '5 min'],
];

class Heat {
  constructor(id, histogram, what, history) {
    Object.assign(this, { histogram, what, history });
    this.columns = make('svg:g');
    this.rows = make('svg:g', { class: 'heat-rows' });
    this.picture = make(
      'svg:svg',
      { class: 'heat', preserveAspectRatio: 'none', role: 'img' },
      this.rows,
      this.columns,
      make('svg:line', { class: 'threshold' }),
    );
    this.labels = make('div', { class: 'heat-labels', 'aria-hidden': true });
    this.readout = make('p', { class: 'hint heat-readout' });
    this.body = make('tbody');
    const heading = (text) => make('th', { scope: 'col', text });
    const table = make(
      'table',
      { class: 'quantiles' },
      make('caption', { class: 'sr', text: `${what}: quantiles by buckets` }),
      make('thead', {}, make('tr', {}, ...['last', what, 'p50', 'p90', 'p99', 'p99.9', 'longest'].map(heading))),
      this.body,
    );
    const scale = make(
      'div',
      { class: 'heat-scale', 'aria-hidden': true },
      ...['5 min ago', '4', '3', '2', '1', 'now'].map((text) => make('span', { text })),
    );
    byId(id).append(
      make('div', { class: 'heat-frame' }, this.labels, this.picture),
      scale,
      this.readout,
      make('div', { class: 'scroll', role: 'group', 'aria-label': `Table of ${what}`, tabindex: 0 }, table),
    );
    this.picture.addEventListener('pointermove', (event) => this.point(event));
    this.picture.addEventListener('pointerleave', () => setText(this.readout, this.resting));
  }

  show(live, runtime) {
    const bounds = live.bucket_bounds_seconds;
    if (this.runtime !== runtime || this.bounds !== bounds.length) this.reset(live, runtime);
    this.live = live;
    const base = this.base;
    const cells = this.cells();
    const last = Math.floor(live.now_unix_seconds / COLUMN_SECONDS) - base;
    sync(
      this.columns,
      cells,
      (column) => column.at,
      () => make('svg:g', {}),
      (group, { at, counts }) => {
        const text = counts.join();
        if (group.shown === text) return;
        group.shown = text;
        group.column = { at, counts };
        const all = counts.reduce((sum, n) => sum + n, 0);
        group.replaceChildren(
          ...counts.flatMap((n, bucket) =>
            n
              ? [
                  make('svg:rect', {
                    x: at - base,
                    y: bounds.length - bucket,
                    width: 1.04,
                    height: 1,
                    class: bucket > this.threshold ? 'slow' : 'fast',
                    'fill-opacity': shade(n / all).toFixed(2),
                  }),
                ]
              : [],
          ),
        );
      },
    );
    this.columns.setAttribute('transform', `translate(${COLUMNS - 1 - last} 0)`);
    this.quantiles(runtime, bounds);
  }

  /** Starts over, with another runtime or the first response. */
  reset(live, runtime) {
    const bounds = live.bucket_bounds_seconds;
    this.runtime = runtime;
    this.bounds = bounds.length;
    this.base = Math.floor(live.now_unix_seconds / COLUMN_SECONDS);
    // The bucket that ends at the threshold; all polls of the next one exceed the threshold.
    this.threshold = bounds.findIndex((bound) => bound >= live.threshold_seconds);
    if (this.threshold < 0) this.threshold = bounds.length;
    const height = bounds.length + 1;
    setAttribute(this.picture, 'viewBox', `0 0 ${COLUMNS} ${height}`);
    const line = this.picture.lastChild;
    for (const [name, value] of [
      ['x1', 0],
      ['x2', COLUMNS],
      ['y1', bounds.length - this.threshold],
      ['y2', bounds.length - this.threshold],
    ])
      line.setAttribute(name, value);
    this.rows.replaceChildren(
      ...bounds.map((_, i) => make('svg:rect', { x: 0, y: bounds.length - i - 0.03, width: COLUMNS, height: 0.06 })),
    );
    this.labels.replaceChildren(
      ...bounds.flatMap((bound, i) => {
        const power = Math.log10(bound);
        if (Math.abs(power - Math.round(power)) > 1e-9) return [];
        const label = make('span', { text: round(bound) });
        label.style.top = `${((bounds.length - i) / height) * 100}%`;
        return [label];
      }),
    );
    this.resting = `The line is the threshold, ${round(live.threshold_seconds)}; each column is ${COLUMN_SECONDS} s.`;
    setText(this.readout, this.resting);
    this.columns.replaceChildren();
    this.columns.children_by_key = undefined;
  }

  /** Returns the counts of each column that has samples. */
  cells() {
    const { samples } = this.history;
    const columns = new Map();
    for (let i = 1; i < samples.length; i++) {
      // The page was hidden in between: the counts cannot be assigned to columns.
      if (samples[i].at - samples[i - 1].at > COLUMN_SECONDS * 2) continue;
      const counts = difference(
        samples[i - 1].runtimes.get(this.runtime)?.[this.histogram],
        samples[i].runtimes.get(this.runtime)?.[this.histogram],
      );
      if (!counts) continue;
      const at = Math.floor(samples[i].at / COLUMN_SECONDS);
      const known = columns.get(at);
      columns.set(at, known ? known.map((n, bucket) => n + counts[bucket]) : counts);
    }
    const first = Math.floor(this.history.latest.at / COLUMN_SECONDS) - COLUMNS;
    return [...columns].filter(([at]) => at > first).map(([at, counts]) => ({ at, counts }));
  }

  quantiles(runtime, bounds) {
    let summary = '';
    const span = this.history.latest.at - this.history.samples[0].at;
    const rows = WINDOWS.filter(([window], i) => i === 0 || span > WINDOWS[i - 1][0]);
    sync(
      this.body,
      rows,
      ([window]) => window,
      ([, name]) =>
        make(
          'tr',
          {},
          make('th', { scope: 'row', text: name }),
          ...Array.from({ length: 6 }, () => make('td', { class: 'number' })),
        ),
      (row, [window, name]) => {
        const counts = this.history.counts(runtime, this.histogram, window);
        const all = counts?.reduce((sum, n) => sum + n, 0) ?? 0;
        setText(row.children[1], count(all));
        [0.5, 0.9, 0.99, 0.999, 1].forEach((q, i) => {
          const value = quantile(counts, bounds, q);
          const cell = row.children[2 + i];
          setText(cell, value === null ? '–' : bound(value, bounds));
          setAttribute(cell, 'data-slow', value !== null && !(value <= this.live.threshold_seconds));
        });
        if (all && window <= 60)
          summary = `, in the last ${name} p50 ${row.children[2].textContent}, p99 ${row.children[4].textContent}`;
      },
    );
    setAttribute(this.picture, 'aria-label', `Heat map of ${this.what}${summary}; the table below has the figures`);
  }

  point(event) {
    const box = this.picture.getBoundingClientRect();
    const { bounds } = this;
    const at =
      Math.floor(((event.clientX - box.left) / box.width) * COLUMNS) +
      Math.floor(this.live.now_unix_seconds / COLUMN_SECONDS) -
      COLUMNS +
      1;
    const bucket = bounds - Math.floor(((event.clientY - box.top) / box.height) * (bounds + 1));
    const column = [...this.columns.children].find((group) => group.column.at === at)?.column;
    const limits = this.live.bucket_bounds_seconds;
    const range =
      bucket === 0
        ? bound(limits[0], limits)
        : bucket >= bounds
          ? bound(undefined, limits)
          : `${round(limits[bucket - 1])} to ${round(limits[bucket])}`;
    setText(
      this.readout,
      column
        ? `${clock(at * COLUMN_SECONDS)}: ${count(column.counts[bucket] ?? 0)} of ${count(column.counts.reduce((sum, n) => sum + n, 0))} took ${range}`
        : this.resting,
    );
  }
}

/** Shades by the logarithm of the share, so that one poll in ten thousand is still visible. */
const shade = (share) => Math.max(0.14, Math.min(1, 1 + Math.log10(share) / 4.6));
