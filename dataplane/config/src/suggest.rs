//! Guesses what an unknown name was meant to be.

use crate::setting::{sections, settings};

/// What to say about an unknown dotted name.
pub(crate) fn unknown_setting(key: &str) -> String {
    match nearest(key) {
        Some(known) => format!("unknown setting; did you mean {known}?"),
        None => format!("unknown setting; known here: {}", siblings(key).join(", ")),
    }
}

/// The known setting or section a name was most likely meant to be.
pub(crate) fn nearest(key: &str) -> Option<&'static str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let known = || {
        let sections = sections().iter().map(|section| section.key.as_str());
        sections.chain(settings().map(|setting| setting.key.as_str()))
    };
    // A third of the name may be wrong; more is no longer the same word.
    let close = |wrong: &str, right: &str| {
        let distance = strsim::damerau_levenshtein(wrong, right);
        (distance * 3 <= wrong.chars().count().max(right.chars().count())).then_some(distance)
    };
    let whole = known()
        .filter(|known| known.matches('.').count() == key.matches('.').count())
        .filter_map(|known| Some((close(key, known)?, known)))
        .min_by_key(|(distance, _)| *distance);
    // Right name in the wrong place, such as `listen_port` at the top.
    let by_last = || {
        known()
            .filter_map(|known| Some((close(&last(key), &last(known))?, known)))
            .min_by_key(|(distance, _)| *distance)
    };
    whole.or_else(by_last).map(|(_, known)| known)
}

/// The names that are known where the unknown one stands.
fn siblings(key: &str) -> Vec<&'static str> {
    let parent = key.rsplit_once('.').map_or("", |(parent, _)| parent);
    let below = |known: &'static str| {
        let rest = if parent.is_empty() {
            known
        } else {
            known
                .strip_prefix(parent)
                .and_then(|rest| rest.strip_prefix('.'))?
        };
        (!rest.contains('.')).then_some(rest)
    };
    let sections = sections().iter().filter_map(|section| below(&section.key));
    sections
        .chain(settings().filter_map(|setting| below(&setting.key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        for (wrong, right) in [
            ("server.listen_prot", "server.listen_port"),
            ("sever", "server"),
            ("listen_port", "server.listen_port"),
            ("storage.bucket", "storage.object_store.bucket"),
            ("storage.objectstore.bucket", "storage.object_store.bucket"),
            ("tls.certificate", "tls.certificate_file"),
            ("querry.task_thread", "query.task_threads"),
        ] {
            assert_eq!(nearest(wrong), Some(right), "{wrong}");
        }
    }

    #[test]
    fn without_a_near_name_the_known_ones_are_listed() {
        let message = unknown_setting("log.zzzzzzzzzz");
        assert_eq!(message, "unknown setting; known here: format, filter");
        assert!(
            unknown_setting("qqqqqq").contains("server, internal"),
            "top level lists sections"
        );
    }
}
