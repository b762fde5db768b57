//! The generated page with all metrics.

use super::{BuildLabels, Declaration, Metrics, OperatorMetrics};

/// All metrics of the data plane and of the operator, in the order of their declaration.
pub(super) fn declarations() -> (Vec<Declaration>, Vec<Declaration>) {
    let build = BuildLabels {
        version: "",
        revision: "",
    };
    (
        Metrics::declare(build.clone()).1,
        OperatorMetrics::declare(build).1,
    )
}

/// `docs/reference/metrics.md`: every metric with its type, labels and meaning.
#[must_use]
pub fn reference_page() -> String {
    let (dataplane, operator) = declarations();
    let both: Vec<_> = dataplane
        .iter()
        .filter(|metric| operator.contains(metric))
        .collect();
    let only = |metrics: &'static str, list: &[Declaration]| {
        let own: Vec<_> = list
            .iter()
            .filter(|metric| !both.contains(metric))
            .cloned()
            .collect();
        table(metrics, &own.iter().collect::<Vec<_>>())
    };
    let mut page = String::from(
        "<!-- Generated from dataplane/telemetry; change the declarations there and run its tests \
         with UPDATE_EXPECT=1. -->\n\
         # Metrics\n\n\
         Served as `/metrics` on the admin port of each process, in the OpenMetrics text format. A \
         metric with labels appears with its first value.\n",
    );
    page.push_str(&table("Both binaries", &both));
    page.push_str(&only("Data plane", &dataplane));
    page.push_str(&only("Operator", &operator));
    page
}

fn table(title: &str, metrics: &[&Declaration]) -> String {
    let mut text =
        format!("\n## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Declaration {
        name,
        kind,
        labels,
        help,
    } in metrics
    {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!(
            "| `{name}` | {kind} | {} | {help}. |\n",
            labels.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_prometheus_rules() {
        let (dataplane, operator) = declarations();
        for metric in dataplane.iter().chain(&operator) {
            let name = metric.name;
            assert!(name.starts_with("flightcluster_"), "{name}");
            assert!(
                name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), metric.kind == "counter", "{name}");
            assert!(
                metric.kind != "histogram" || name.ends_with("_seconds"),
                "{name}"
            );
            assert!(
                !metric.help.is_empty() && !metric.help.ends_with('.'),
                "{name}"
            );
            assert!(!metric.help.contains('|'), "{name}");
        }
    }

    /// S4-31.
    #[test]
    fn no_name_is_declared_twice_in_a_process() {
        let (dataplane, operator) = declarations();
        for list in [dataplane, operator] {
            let names: BTreeSet<_> = list.iter().map(|metric| metric.name).collect();
            assert_eq!(names.len(), list.len());
        }
    }
}
