//! The image of all roles: where each part of its reference comes from.

use flightcluster_crds::v1alpha1::ImageSpec;

use super::{Defaults, Image, Problem, Problems};

/// The longest tag that registries know.
const MAX_TAG: usize = 128;

/// Resolves the image. What the spec leaves open stays as it is in a cluster that already runs
/// (`current`), so that an operator with another default restarts no pod.
pub(super) fn validate(
    image: Option<&ImageSpec>,
    current: Option<&str>,
    defaults: &Defaults,
    problems: &mut Problems,
) -> Image {
    let image = image.cloned().unwrap_or_default();
    if let Some(repository) = &image.repository {
        check_repository(repository, problems);
    }
    if let Some(tag) = &image.tag {
        check_tag(tag, problems);
    }
    let (repository, tag) = split_reference(current.unwrap_or(&defaults.image));
    let repository = image.repository.as_deref().unwrap_or(repository);
    let reference = match (&image.digest, &image.tag) {
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}{tag}"),
    };
    Image {
        reference,
        pull_policy: image.pull_policy.unwrap_or_default(),
        pull_secrets: image.pull_secrets,
    }
}

fn check_repository(repository: &str, problems: &mut Problems) {
    let (name, rest) = split_reference(repository);
    let message = if !rest.is_empty() {
        format!(
            "{repository:?} holds a tag or digest; write {name:?} here and the rest into image.tag \
             or image.digest"
        )
    } else if !is_repository(repository) {
        format!(
            "{repository:?} is no name of an image; write for example \
             registry.example.com/flightcluster"
        )
    } else {
        return;
    };
    problems.push(Problem::new("image.repository", message));
}

/// Parts between slashes that are not empty. Only the first, the registry, may have upper case
/// letters and a port.
fn is_repository(text: &str) -> bool {
    let mut parts = text.split('/').enumerate();
    parts.all(|(index, part)| {
        let is_registry = index == 0 && text.contains('/');
        !part.is_empty()
            && part.chars().all(|c| {
                c.is_ascii_lowercase()
                    || c.is_ascii_digit()
                    || "._-".contains(c)
                    || (is_registry && (c.is_ascii_uppercase() || ":[]".contains(c)))
            })
    })
}

fn check_tag(tag: &str, problems: &mut Problems) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_tag = tag.len() <= MAX_TAG
        && tag.starts_with(is_word)
        && tag.chars().all(|c| is_word(c) || c == '.' || c == '-');
    if !is_tag {
        let message = format!(
            "{tag:?} is no tag: it may hold letters, digits, '_', '.' and '-', not '.' or '-' at \
             its beginning, and {MAX_TAG} of them; a digest goes into image.digest"
        );
        problems.push(Problem::new("image.tag", message));
    }
}

/// Splits an image reference before its tag or digest, which keep their `:` or `@`.
fn split_reference(reference: &str) -> (&str, &str) {
    if let Some(at) = reference.find('@') {
        return reference.split_at(at);
    }
    let name = reference.rfind('/').map_or(0, |slash| slash + 1);
    match reference[name..].find(':') {
        Some(colon) => reference.split_at(name + colon),
        None => (reference, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spec_leaves_open_of_the_image_is_taken_from_the_running_cluster_first() {
        let defaults = Defaults {
            image: "a/x:2".into(),
            cluster_domain: "cluster.local".into(),
        };
        let with = |repository: Option<&str>, tag: Option<&str>, current| {
            let spec = ImageSpec {
                repository: repository.map(Into::into),
                tag: tag.map(Into::into),
                ..ImageSpec::default()
            };
            validate(Some(&spec), current, &defaults, &mut Problems::new()).reference
        };
        assert_eq!(with(None, None, None), "a/x:2");
        assert_eq!(with(None, None, Some("a/x:1")), "a/x:1");
        assert_eq!(with(Some("b/x"), None, Some("b/x:1")), "b/x:1");
        assert_eq!(with(None, Some("3"), Some("a/x:1")), "a/x:3");
        assert_eq!(with(Some("b/x"), None, None), "b/x:2");
    }

    #[test]
    fn a_reference_is_split_before_tag_or_digest_and_not_at_a_port() {
        assert_eq!(
            split_reference("a.example:5000/x/y:1.2"),
            ("a.example:5000/x/y", ":1.2")
        );
        assert_eq!(
            split_reference("a.example:5000/x"),
            ("a.example:5000/x", "")
        );
        assert_eq!(split_reference("x@sha256:00"), ("x", "@sha256:00"));
        assert_eq!(split_reference("x"), ("x", ""));
    }

    #[test]
    fn names_and_tags_that_registries_know_are_good() {
        let mut problems = Problems::new();
        for repository in [
            "x",
            "library/x",
            "Registry.example:5000/a/b_c.d-e",
            "[::1]:5000/x",
            "localhost/flightcluster",
        ] {
            check_repository(repository, &mut problems);
        }
        for tag in ["1", "v1.2-rc_3", "_x", &"a".repeat(128)] {
            check_tag(tag, &mut problems);
        }
        assert_eq!(problems, []);
    }

    #[test]
    fn what_would_make_a_reference_that_no_node_can_pull_is_a_problem() {
        for repository in [
            "x:1",
            "a.example:5000/x:1",
            "x@sha256:00",
            "a//x",
            "A/X",
            "a x",
            "",
        ] {
            let mut problems = Problems::new();
            check_repository(repository, &mut problems);
            assert_eq!(problems.len(), 1, "{repository}");
        }
        for tag in [
            "",
            ":1",
            "-1",
            "1@sha256:00",
            "a/b",
            "a b",
            &"a".repeat(129),
        ] {
            let mut problems = Problems::new();
            check_tag(tag, &mut problems);
            assert_eq!(problems.len(), 1, "{tag}");
        }
    }
}
