//! `podTemplate`: a partial pod template, read so that a misspelt field is not lost silently.

use flightcluster_crds::v1alpha1::PodTemplate;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::{Problem, Problems, amounts, unknown_fields};

/// Reads a partial pod template.
pub(super) fn validate(
    template: Option<&PodTemplate>,
    field: &str,
    problems: &mut Problems,
) -> Option<Box<PodTemplateSpec>> {
    let template = template?;
    let field = format!("{field}.podTemplate");
    let parsed: PodTemplateSpec = match serde_json::from_value(template.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            problems.push(Problem::new(field, format!("is no pod template: {error}")));
            return None;
        }
    };
    for unknown in unknown_fields(template, &parsed) {
        let message = "is no field of a pod template; check its spelling and place";
        problems.push(Problem::new(format!("{field}.{unknown}"), message));
    }
    if let Some(pod) = &parsed.spec {
        amounts::check_pod(pod, &format!("{field}.spec"), problems);
    }
    Some(Box::new(parsed))
}
