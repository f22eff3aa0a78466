// Connects the parts: what to request, which view shows the response, and the state of the server.

const SCHEMA = 1;

function start() {
  const history = new History();
  const worst = new Worst(history);
  const now = new Now(history, worst);
  const views = [worst, new Stalls(history), new Tables(history), new Health()];
  const heats = [
    new Heat('heat-polls', 'polls', 'polls', history),
    new Heat('heat-delay', 'schedule_delay', 'wake-ups', history),
  ];
  const flame = new Flame();
  let latest = null;
  let failure = null;

  const next = () => {
    const blocked = latest?.runtimes.reduce((sum, runtime) => sum + blockedSeconds(runtime), 0);
    return latest && flame.wants(blocked) ? 'live/profile' : 'live';
  };
  const received = (path, data) => {
    failure = null;
    if (data.schema !== SCHEMA)
      return banner('The service now runs another version of pollwatch. Reload this page.', 'Reload', () =>
        location.reload(),
      );
    if (path === 'live/profile') {
      flame.show(data);
    } else {
      if (latest && (data.pid !== latest.pid || data.uptime_seconds < latest.uptime_seconds)) flame.invalidate();
      latest = data;
      history.add(data);
      show();
    }
    showState();
  };
  const show = () => {
    setText(byId('program'), latest.program);
    document.title = title(latest);
    now.show(latest, !connection.paused);
    for (const view of views) view.show(latest);
    const runtime = pickRuntime(latest.runtimes);
    if (runtime) for (const heat of heats) heat.show(latest, runtime);
    byId('times').hidden = !runtime;
  };
  /** Shows the state of the server and of the page. */
  const showState = () => {
    if (failure) {
      const since = new Date(failure.since).toLocaleTimeString([], { hourCycle: 'h23' });
      const retry = Math.max(0, Math.ceil((failure.retry - Date.now()) / 1000));
      const when = connection.paused ? '' : retry ? ` Next attempt in ${retry} s.` : ' Connecting …';
      state('disconnected', 'Disconnected');
      banner(
        `No connection to the server since ${since}: ${failure.why}. ${latest ? 'The page shows the latest known data.' : ''}${when}`,
        'Connect now',
        () => connection.resume(),
      );
    } else {
      const stopped = latest?.watching === false;
      banner(
        stopped
          ? `${stoppedBy(latest)}: polls are still counted, but stalls are no longer detected.`
          : latest && alarms(latest).join('; '),
      );
      if (connection.paused) state('paused', 'Paused');
      else if (stopped) state('stopped', 'Stopped');
      else if (latest) state('live', 'Live');
    }
  };

  const connection = new Connection(next, received, (error) => {
    failure = error;
    now.stop();
    document.title = 'disconnected · pollwatch';
    showState();
  });
  setInterval(() => failure && showState(), 500);
  byId('pause').addEventListener('click', () => {
    connection.setPaused(!connection.paused);
    byId('pause').setAttribute('aria-pressed', connection.paused);
    setText(byId('pause'), connection.paused ? 'Resume' : 'Pause');
    if (connection.paused) now.stop();
    showState();
  });
  byId('threads-take').addEventListener('click', readThreads);
  byId('times-runtime').addEventListener('change', () => latest && show());
  connection.resume();
}

/**
 * Returns the ongoing incidents, and the conditions of whole runtimes that are no incidents yet.
 * While no worker is blocked, the verdict is about the conditions.
 */
function alarms({ incidents, conditions, runtimes }) {
  const isShown = ({ kind, runtime }) => incidents.some((one) => one.kind === kind && one.runtime === runtime);
  const isBlocked = runtimes.some((runtime) => runtime.blocked_workers);
  const others = isBlocked ? conditions.filter((condition) => !isShown(condition)) : [];
  return [...incidents, ...others].map(({ reason }) => reason);
}

/** Explains why stalls are no longer detected. */
const stoppedBy = ({ stopped, watchdog }) =>
  stopped === 'gave_up'
    ? `The watchdog gave up after ${plural(watchdog.coverage.watchdog_panics, 'panic')} on its thread, a defect of pollwatch`
    : 'The watchdog has been shut down';

/** Returns the runtime whose distributions are shown: the selected one, otherwise the first. */
function pickRuntime(runtimes) {
  const select = byId('times-runtime');
  byId('times-pick').hidden = runtimes.length < 2;
  sync(
    select,
    runtimes,
    (runtime) => runtime.name,
    (runtime) => make('option', { value: runtime.name, text: runtime.name }),
    () => {},
  );
  return select.value;
}

function state(name, text) {
  setAttribute(document.body, 'data-state', name);
  setText(byId('status-text'), text);
}

function banner(text, action, act) {
  byId('banner').hidden = !text;
  if (!text) return;
  setText(byId('banner-text'), text);
  byId('banner-action').hidden = !action;
  setText(byId('banner-action'), action ?? '');
  byId('banner-action').onclick = act ?? null;
}

function title({ runtimes, conditions, program }) {
  const blocked = runtimes.reduce((sum, runtime) => sum + runtime.blocked_workers, 0);
  const alarm = blocked ? `${blocked} blocked · ` : conditions.length ? `${titleOf(conditions[0])} · ` : '';
  return `${alarm}${program || 'pollwatch'}`;
}

start();
