// The figures of the runtimes and of pollwatch itself.

class Health {
  show(live) {
    sync(
      byId('runtimes'),
      live.runtimes,
      (runtime) => runtime.name,
      (runtime) =>
        make(
          'div',
          { class: 'health' },
          make('h3', {}, named(runtime.name)),
          make('p', { class: 'hint' }),
          make('p', { class: 'hint late', hidden: true }),
          make('ul', { class: 'conditions' }),
          make('dl', { class: 'figures' }),
        ),
      (element, runtime) => this.runtime(element, runtime, live),
    );
    byId('runtimes-empty').hidden = live.runtimes.length > 0;
    setText(byId('runtimes-empty'), 'No runtime is known yet.');
    this.self(live);
  }

  runtime(element, runtime, live) {
    setAttribute(element, 'data-alive', runtime.alive);
    const measured = runtime.every_task ? 'every task is measured' : 'watched futures and requests are measured';
    setText(element.children[1], runtime.alive ? measured : 'shut down');
    const depth = (value) => (value === null ? null : count(value));
    const threads = runtime.blocking_threads;
    const figures = [
      ['workers', count(runtime.workers.length), `${runtime.blocked_workers} blocked`],
      ['busy', percent(runtime.busy_ratio), 'of the workers’ time'],
      ['tasks alive', depth(runtime.alive_tasks), ''],
      ['global queue', depth(runtime.global_queue_depth), 'waiting tasks'],
      ['local queues', depth(runtime.local_queue_depth), 'waiting tasks'],
      [
        'blocking threads',
        depth(threads),
        threads === null ? '' : `${count(threads - runtime.idle_blocking_threads)} busy`,
      ],
      ['stalls', count(stallCount(runtime)), `${duration(blockedSeconds(runtime))} in total`],
      [
        'suspected',
        runtime.suspected.stalls ? count(runtime.suspected.stalls) : null,
        `stalls, ${duration(runtime.suspected.stalled_seconds)}`,
      ],
      [
        'root stalls',
        runtime.root_stalls.stalls ? count(runtime.root_stalls.stalls) : null,
        `on no worker, ${duration(runtime.root_stalls.stalled_seconds)}`,
      ],
      [
        'off their worker',
        runtime.offworker_polls ? count(runtime.offworker_polls) : null,
        `polls in block_in_place, the oldest for ${duration(runtime.oldest_offworker_poll_seconds)}`,
      ],
      [
        'sockets and timers',
        runtime.driver_attended === false ? 'unattended' : null,
        'no worker attends them: a blocked task keeps the driver, or the runtime hangs',
      ],
      [
        'driver rescues',
        runtime.driver_rescues ? count(runtime.driver_rescues) : null,
        `workers woken by pollwatch; unattended for ${duration(runtime.driver_unattended_seconds)} in all`,
      ],
      [
        'hung',
        runtime.hung_seconds ? duration(runtime.hung_seconds) : null,
        'in all: every worker was parked, and none attended sockets and timers',
      ],
      ['blocking queue', depth(runtime.blocking_queue_depth), 'waiting closures'],
    ];
    const late = live.late_runtimes.findLast((report) => report.runtime === runtime.name);
    element.children[2].hidden = !late;
    if (late) setText(element.children[2], `${clock(late.reported_at_unix_seconds)}: ${late.text}`);
    sync(
      element.children[3],
      live.conditions.filter((condition) => condition.runtime === runtime.name),
      (condition) => condition.kind,
      () => make('li', {}, make('p'), make('p', { class: 'advice' })),
      (item, condition) => {
        setText(item.children[0], condition.reason);
        setText(item.children[1], condition.remedy);
      },
    );
    sync(
      element.children[4],
      figures.filter(([, value]) => value !== null),
      ([name]) => name,
      ([name]) =>
        make('div', {}, make('dt', { text: name }), make('dd', { class: 'figure' }), make('dd', { class: 'unit' })),
      (tile, [, value, unit]) => {
        setText(tile.children[1], value);
        setText(tile.children[2], unit);
      },
    );
  }

  self({ watchdog, uptime_seconds: uptime, threshold_seconds: threshold, mode, version, program, pid }) {
    const captures = watchdog.captures.filter((capture) => capture.count > 0);
    const facts = [
      ['threshold', duration(threshold)],
      ['watching for', duration(uptime)],
      ['stacks captured', captures.map((capture) => `${count(capture.count)} ${capture.result}`).join(', ') || 'none yet'],
      ['reports not logged (rate limit)', count(watchdog.reports_suppressed)],
      ['reports lost', count(watchdog.reports_lost)],
      ['slow polls not reported', count(watchdog.coverage.lost_polls)],
      ['watchdog woke late', plural(watchdog.oversleeps, 'time')],
      ['threads measured', count(watchdog.coverage.measured_threads)],
      ['panics of pollwatch', count(watchdog.coverage.watchdog_panics)],
      ['panics in callbacks', count(watchdog.callback_panics)],
      ['sites beyond max_sites', count(watchdog.sites_overflowed)],
      ['requests beyond max_routes', count(watchdog.routes_overflowed)],
      ...watchdog.allowed_blocking.map(({ reason, seconds }) => [`allowed blocking: ${reason}`, duration(seconds)]),
    ];
    sync(
      byId('self-facts'),
      facts,
      ([name]) => name,
      ([name]) => make('div', {}, make('dt', {}, named(name)), make('dd')),
      (element, [, value]) => setText(element.children[1], value),
    );
    setText(byId('self-coverage'), watchdog.coverage.text);
    setText(
      byId('about'),
      `pollwatch ${version}, ${mode === 'unstable' ? 'with tokio’s task hooks' : 'without tokio’s task hooks'}; ${program} (process ${pid})`,
    );
  }
}
