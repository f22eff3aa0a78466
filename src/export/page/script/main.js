// Puts it together: what is asked next, who shows the answer, and what has become of the server.

const SCHEMA = 1;

function start() {
  const history = new History();
  const now = new Now(history);
  const views = [new Worst(history), new Stalls(history), new Tables(history), new Health()];
  const heats = [new Heat('heat-polls', 'polls', 'polls', history), new Heat('heat-delay', 'schedule_delay', 'wake-ups', history)];
  const flame = new Flame();
  let latest = null;
  let gone = null;

  const next = () => {
    const blocked = latest?.runtimes.reduce((sum, runtime) => sum + stalled(runtime), 0);
    return latest && flame.wants(blocked) ? 'live/profile' : 'live';
  };
  const taken = (page, data) => {
    if (data.schema !== SCHEMA) return banner('The service runs another version of pollwatch than this page is from.', 'Reload', () => location.reload());
    if (page === 'live/profile') return flame.show(data);
    if (latest && (data.pid !== latest.pid || data.uptime_seconds < latest.uptime_seconds)) flame.forget();
    latest = data;
    history.take(data);
    show();
  };
  const show = () => {
    setText(byId('program'), latest.program);
    document.title = title(latest);
    now.show(latest, !connection.paused);
    for (const view of views) view.show(latest);
    const runtime = pickRuntime(latest.runtimes);
    if (runtime) for (const heat of heats) heat.show(latest, runtime);
    byId('times').hidden = !runtime;
    if (!latest.watching) state('stopped', 'Stopped');
  };
  const told = (news) => {
    gone = news.state === 'gone' ? news : null;
    if (gone) {
      now.stop();
      document.title = 'gone · pollwatch';
    }
    tellGone();
    if (!gone) state('live', 'Live');
  };
  /** Tells of the server that is gone, and when it is tried again. */
  const tellGone = () => {
    if (!gone) return latest?.watching === false ? tellStopped() : banner(null);
    const since = new Date(gone.since).toLocaleTimeString([], { hourCycle: 'h23' });
    state('gone', 'Disconnected');
    const retry = Math.max(0, Math.ceil((gone.retry - Date.now()) / 1000));
    const when = connection.paused ? '' : retry ? ` Next try in ${retry} s.` : ' Trying …';
    banner(`The server is gone since ${since}: ${gone.why}. ${latest ? 'What you see is the last that was known.' : ''}${when}`, 'Try now', () => connection.resume());
  };
  const tellStopped = () => banner('The watchdog has been shut down: polls are still counted, but no further stall is found.', null);

  const connection = new Connection(next, taken, told);
  setInterval(() => gone && tellGone(), 500);
  byId('pause').addEventListener('click', () => {
    connection.setPaused(!connection.paused);
    byId('pause').setAttribute('aria-pressed', connection.paused);
    setText(byId('pause'), connection.paused ? 'Resume' : 'Pause');
    if (connection.paused) {
      now.stop();
      state('paused', 'Paused');
    }
  });
  byId('times-runtime').addEventListener('change', () => latest && show());
  connection.resume();
}

/** The runtime whose distributions are shown: the one picked, else the first. */
function pickRuntime(runtimes) {
  const select = byId('times-runtime');
  byId('times-pick').hidden = runtimes.length < 2;
  sync(select, runtimes, (runtime) => runtime.name, (runtime) => make('option', { value: runtime.name, text: runtime.name }), () => {});
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
