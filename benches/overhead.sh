#!/usr/bin/env bash
# Measures all that docs/overhead.md has, and prints it as Markdown: some 3 minutes after the builds, on a machine with nothing else to
# do. `benches/overhead.sh --quick` only checks that all of it runs. Needs wrk for the requests and valgrind for the instructions; what is
# not there is left out, with a word.
set -euo pipefail
cd "$(dirname "$0")/.."
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_DIR

quick="${1:-}"
[ -z "$quick" ] || [ "$quick" = --quick ] || { echo "usage: $0 [--quick]" >&2; exit 2; }
echo "Commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD 2>/dev/null || echo ', with changes')."

heading() { printf '\n## %s\n\n' "$1"; }

heading "A poll, tokio_unstable"
cargo bench -q --locked --bench poll_overhead -- $quick
heading "A poll, stable mode"
RUSTFLAGS="" cargo bench -q --locked --bench poll_overhead --target-dir target-stable -- $quick

heading "Instructions a poll"
if command -v valgrind >/dev/null; then
    binary="$(cargo bench --locked --bench poll_overhead --no-run --message-format=json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*poll_overhead[^"]*\)".*/\1/p' | tail -1)"
    # Of so many polls more: what happens once is in both. Not the clock's calibration, which is as long as it takes.
    count() {
        valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=poll_overhead::Variant::sample "$binary" --once "$1" "$2" 2>&1 |
            sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
    }
    few=2000 many=$([ -n "$quick" ] && echo 4000 || echo 42000)
    echo '| variant | instructions a poll |'
    echo '|---|---|'
    for name in "bare" "hooks that do nothing" "floor: hooks" "pollwatch: hooks" "floor: wrapper" "pollwatch: wrapper" \
        "tokio: poll-time histogram" "tokio-metrics: TaskMonitor"; do
        echo "| $name | $((($(count "$name" "$many") - $(count "$name" "$few")) / (many - few))) |"
    done
else
    echo "No valgrind here."
fi

heading "All else"
cargo bench -q --locked --bench cost -- $quick

heading "Others"
cargo run -q --locked --release --manifest-path benches/others/Cargo.toml -- "$([ -n "$quick" ] && echo 1 || echo 7)"

heading "Requests"
if command -v wrk >/dev/null; then
    cargo run -q --locked --release --manifest-path benches/layer/Cargo.toml -- $([ -n "$quick" ] && echo 1 1 || echo 2 7) 2>/dev/null
else
    echo "No wrk here."
fi

heading "Size of a stripped program"
build() { cargo build -q --locked --release --manifest-path benches/size/Cargo.toml "$@"; }
build --bin bare
build --bin watched --features pollwatch
size() { stat -c %s "benches/size/target/release/$1"; }
printf '| program | bytes |\n|---|---|\n| bare | %s |\n| watched | %s |\n' "$(size bare)" "$(size watched)"
