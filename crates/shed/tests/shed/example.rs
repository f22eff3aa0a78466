//! The example `shed`, run as a user runs it.

use std::process::{Command, Stdio};

/// Returns the last numbers of a row of the table: the 99th percentile of `/price` in ms, and the
/// reports and rejections per second.
fn row(output: &str, title: &str) -> [f64; 3] {
    let line = output.lines().find(|line| line.starts_with(title)).unwrap_or_else(|| panic!("no {title}: {output}"));
    let words: Vec<&str> = line.split_whitespace().rev().collect();
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{word}: {line}"));
    [number(words[3]), number(words[1]), number(words[0])]
}

#[test]
fn shedding_keeps_the_latency_of_prices_low() {
    let mut attempts = Vec::new();
    // Other processes may need the CPUs during any of the phases.
    for _ in 0..3 {
        let mut example = Command::new(test_support::example("shed"));
        let out = example.stdin(Stdio::null()).output().expect("the example starts");
        let [stdout, stderr] = [&out.stdout, &out.stderr].map(|text| std::str::from_utf8(text).expect("UTF-8"));
        assert!(out.status.success(), "{}\n{stdout}\n{stderr}", out.status);
        assert!(stderr.contains("requests are rejected"), "{stderr}");
        let [_, reports, shed] = row(stdout, "prices alone");
        assert_eq!((reports, shed), (0.0, 0.0), "{stdout}");
        let [without, answered, refused] = row(stdout, "overloaded, without shedding");
        assert!(answered > 0.0 && refused == 0.0, "{stdout}");
        let [with, answered, refused] = row(stdout, "overloaded, with shedding");
        assert!(answered > 0.0 && refused > 0.0, "{stdout}");
        if with * 2.0 < without {
            return;
        }
        attempts.push(stdout.to_owned());
    }
    panic!("no better with shedding: {attempts:#?}");
}
