//! The pages of `--listen`.

use serde_json::Value;

use crate::support::{Running, target};

#[test]
fn the_pages_of_the_library_are_served() {
    let target = target("blocks --seconds 600 --threshold 100 --kind sleeps");
    let (mut running, attached) = Running::start("--threshold 20ms --listen 127.0.0.1:0", &target);
    let address = attached["address"].as_str().unwrap();
    let get = |path: &str| {
        let mut response =
            ureq::get(format!("http://{address}{path}")).call().unwrap_or_else(|e| panic!("{path}: {e}"));
        response.body_mut().read_to_string().unwrap()
    };
    // The first stalls have no stack while symbols are loaded.
    running.find(|value| value["event"] == "stall" && value["phase"] == "resolved" && !value["stack"].is_null());
    let metrics = get("/metrics");
    let counted = metrics.lines().find(|line| line.starts_with("pollwatch_stalls_total") && line.contains("syscall"));
    let counted = counted.unwrap_or_else(|| panic!("{metrics}")).rsplit_once(' ').unwrap().1;
    assert!(counted.parse::<f64>().unwrap() >= 1.0, "{counted}");
    let stalls: Value = serde_json::from_str(&get("/stalls")).unwrap();
    assert!(stalls.to_string().contains("attach_target::kinds::sleeps"));
    assert!(get("/stalls/folded").contains(";attach_target::kinds::sleeps"));
    assert!(get("/threads").contains(" threads at "));
    assert!(get("/").contains("<html"));
    let live: Value = serde_json::from_str(&get("/live")).unwrap();
    assert_eq!(live["schema"], 1, "{live}");
    running.signal(libc::SIGINT);
    assert!(running.wait().1.success());
}
