// Numbers for display.

const digits = (value, unit) => `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${unit}`;

/** Formats seconds: `420 µs`, `84 ms`, `1.42 s`, `3 min 20 s`. */
function duration(seconds) {
  if (!(seconds > 0)) return '0 ms';
  if (seconds < 0.000_999_5) return `${Math.max(1, Math.round(seconds * 1e6))} µs`;
  if (seconds < 0.009_95) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.999_5) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 99.95) return digits(seconds, 's');
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** Formats a time in the past, in seconds. */
function ago(seconds) {
  if (seconds < 1.5) return 'just now';
  if (seconds < 100) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

const count = (number) => (number < 100_000 ? plain.format(number) : short.format(number));
const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

function percent(share) {
  const value = share * 100;
  return `${value > 0 && value < 9.95 ? value.toFixed(1) : Math.round(value)} %`;
}

const clock = (unixSeconds) => new Date(unixSeconds * 1e3).toLocaleTimeString([], { hourCycle: 'h23' });

/** Formats a duration without trailing zeros. */
const round = (seconds) => duration(seconds).replace(/\.0+ /, ' ');

/** Formats a bucket's upper bound; undefined for the last bucket, which has none. */
const bound = (seconds, bounds) => (seconds === undefined ? `> ${round(bounds.at(-1))}` : `≤ ${round(seconds)}`);
