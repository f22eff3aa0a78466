// Puts it together: what is asked next, who shows the answer, and what has become of the server.

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
  let gone = null;

  const next = () => {
    const blocked = latest?.runtimes.reduce((sum, runtime) => sum + stalled(runtime), 0);
    return latest && flame.wants(blocked) ? 'live/profile' : 'live';
  };
  const taken = (page, data) => {
    gone = null;
    if (data.schema !== SCHEMA)
      return banner('The service runs another version of pollwatch than this page is from.', 'Reload', () =>
        location.reload(),
      );
    if (page === 'live/profile') {
      flame.show(data);
    } else {
      if (latest && (data.pid !== latest.pid || data.uptime_seconds < latest.uptime_seconds)) flame.forget();
      latest = data;
      history.take(data);
      show();
    }
    settle();
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
  /** Says what has become of the server, and of the page. */
  const settle = () => {
    if (gone) {
      const since = new Date(gone.since).toLocaleTimeString([], { hourCycle: 'h23' });
      const retry = Math.max(0, Math.ceil((gone.retry - Date.now()) / 1000));
      const when = connection.paused ? '' : retry ? ` Next try in ${retry} s.` : ' Trying …';
      state('gone', 'Disconnected');
      banner(
        `The server is gone since ${since}: ${gone.why}. ${latest ? 'What you see is the last that was known.' : ''}${when}`,
        'Try now',
        () => connection.resume(),
      );
    } else {
      const stopped = latest?.watching === false;
      banner(stopped && `${stoppedBy(latest)}: polls are still counted, but no further stall is found.`);
      if (connection.paused) state('paused', 'Paused');
      else if (stopped) state('stopped', 'Stopped');
      else if (latest) state('live', 'Live');
    }
  };

  const connection = new Connection(next, taken, (news) => {
    gone = news;
    now.stop();
    document.title = 'gone · pollwatch';
    settle();
  });
  setInterval(() => gone && settle(), 500);
  byId('pause').addEventListener('click', () => {
    connection.setPaused(!connection.paused);
    byId('pause').setAttribute('aria-pressed', connection.paused);
    setText(byId('pause'), connection.paused ? 'Resume' : 'Pause');
    if (connection.paused) now.stop();
    settle();
  });
  byId('times-runtime').addEventListener('change', () => latest && show());
  connection.resume();
}

/** Why the watchdog looks no more. */
const stoppedBy = ({ stopped, watchdog }) =>
  stopped === 'gave_up'
    ? `The watchdog gave up after ${plural(watchdog.coverage.watchdog_panics, 'panic')} on its thread, a defect of pollwatch`
    : 'The watchdog has been shut down';

/** The runtime whose distributions are shown: the one picked, else the first. */
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

function title({ runtimes, program }) {
  const blocked = runtimes.reduce((sum, runtime) => sum + runtime.blocked_workers, 0);
  return `${blocked ? `${blocked} blocked · ` : ''}${program || 'pollwatch'}`;
}

start();
