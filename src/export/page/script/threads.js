// The threads of the process, when the user asks for them: to read them costs more than other data.

async function readThreads() {
  const [button, hint] = [byId('threads-take'), byId('threads-hint')];
  button.disabled = true;
  setText(hint, 'Reading all threads …');
  const response = await fetch('threads', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS) })
    .then((response) => (response.ok ? response.text() : Promise.reject(new Error(`status ${response.status}`))))
    .catch((error) => ({ error }));
  button.disabled = false;
  if (response.error) return setText(hint, `No thread dump: ${reasonOf(response.error)}.`);
  const [head, ...groups] = response.trimEnd().split('\n\n');
  setText(hint, head);
  byId('thread-groups').replaceChildren(...groups.map(threadGroup));
}

/** Creates a group of threads: its first line is shown, its threads and stack on demand. */
function threadGroup(text) {
  const [summary, ...lines] = text.split('\n');
  return make(
    'details',
    {},
    make('summary', { text: summary }),
    lines.length ? make('pre', { text: lines.join('\n') }) : null,
  );
}
