//! The `/metrics` page of one instance, made from the page of the service that shows its kind.

/// Returns the page of an instance: every counter is multiplied by the instance's share, and gauges
/// are the service's.
///
/// What is true of the service's page is true of the result. A counter does not decrease, the
/// buckets of a histogram are cumulative, its last one is its count, and a part is no more than the
/// sum.
pub(crate) fn of_instance(text: &str, instance: usize) -> String {
    let share = share(instance);
    let mut page = String::with_capacity(text.len() + text.len() / 10);
    let mut scales = false;
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            scales = !family.ends_with(" gauge");
        }
        match line.rsplit_once(' ') {
            Some((series, value)) if scales && !line.starts_with('#') => {
                page.push_str(series);
                page.push(' ');
                page.push_str(&scaled(series, value, share));
            }
            _ => page.push_str(line),
        }
        page.push('\n');
    }
    page
}

/// The share of the service's counts that an instance shows: from a half to all, spread evenly by
/// the golden ratio.
fn share(instance: usize) -> f64 {
    0.5 + (instance as f64 * 0.618_033_988_749_895).fract() / 2.0
}

fn scaled(series: &str, value: &str, share: f64) -> String {
    let Ok(number) = value.parse::<f64>() else { return value.to_owned() };
    let name = series.split('{').next().unwrap_or_default();
    let is_time = name.contains("_seconds") && !name.ends_with("_bucket") && !name.ends_with("_count");
    let number = number * share;
    // A count is an integer. Rounding up keeps the order of buckets and of scrapes, and single
    // events.
    if is_time { format!("{number}") } else { format!("{}", number.ceil()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP a_total A counter.\n# TYPE a_total counter\na_total{site=\"a b\"} 7\n\
        # HELP b_seconds_total A time.\n# TYPE b_seconds_total counter\nb_seconds_total 3.5\n\
        # HELP g A gauge.\n# TYPE g gauge\ng 5\n\
        # HELP h_seconds A histogram.\n# TYPE h_seconds histogram\n\
        h_seconds_bucket{le=\"0.1\"} 3\nh_seconds_bucket{le=\"+Inf\"} 4\nh_seconds_sum 0.5\nh_seconds_count 4\n";

    fn value(page: &str, series: &str) -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in\n{page}"))
    }

    #[test]
    fn each_instance_has_the_same_series_and_a_share_of_the_counts() {
        let names = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
        };
        for instance in 0..100 {
            let page = of_instance(PAGE, instance);
            assert_eq!(names(&page), names(PAGE));
            assert_eq!(value(&page, "g"), 5.0);
            assert!((1.75..=3.5).contains(&value(&page, "b_seconds_total")), "{page}");
            assert!([4.0, 5.0, 6.0, 7.0].contains(&value(&page, "a_total{site=\"a b\"}")), "{page}");
            let [low, all] = ["0.1", "+Inf"].map(|le| value(&page, &format!("h_seconds_bucket{{le=\"{le}\"}}")));
            assert!(low <= all && all == value(&page, "h_seconds_count"), "{page}");
        }
    }

    #[test]
    fn no_counter_of_an_instance_decreases_while_that_of_the_service_increases() {
        for instance in 0..100 {
            let values = (0..1_000).map(|n| f64::from(n) / 7.0).map(|n| {
                let page = of_instance(&format!("# TYPE a_seconds_total counter\na_seconds_total {n}\n"), instance);
                value(&page, "a_seconds_total")
            });
            assert!(values.is_sorted());
        }
    }
}
