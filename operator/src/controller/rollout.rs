//! Between steps 3 and 4: a new image goes from role to role, and the next role keeps what it runs until the
//! one before it is ready.
//!
//! The order, and why, is [`ORDER`] and `docs/decisions/0019-order-of-an-upgrade.md`. A role that is held back
//! keeps the template of its pods and its configuration, which belong together; the number of its pods is
//! as wanted.
//!
//! # What is not held back
//! - Everything but a change of the image: a mistake in a setting must not keep its own cure waiting.
//! - A role that has no StatefulSet yet: a new cluster starts at once.
//! - The way back to the image an unfinished upgrade came from: all roles go it at once. Each StatefulSet
//!   that was moved says which that is ([`IMAGE_BEFORE`]), until all roles have arrived.
//!
//! Pure: what runs is an argument, and all there is to remember stands in the objects.

use std::collections::BTreeMap;

use flightcluster_config::Role;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec};
use kube::ResourceExt;

use super::build::labels::{IMAGE, IMAGE_BEFORE};
use super::build::names::Names;
use super::build::pod::CONTAINER;
use super::observe::observe_role;
use super::resources::{Desired, Resources};

/// The order in which roles get a new image. Whoever has to understand the other goes first: the catalog is
/// called by all, queriers read what ingesters write. What keeps a log goes last.
pub const ORDER: [Role; 3] = [Role::Catalog, Role::Querier, Role::Ingester];

/// What runs of a role.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunningRole {
    /// The template of its pods.
    pub template: PodTemplateSpec,
    /// The image they were given.
    pub image: Option<String>,
    /// Its configuration, by file.
    pub config: Option<BTreeMap<String, String>>,
    /// The image before an upgrade that was not finished when this was last written.
    pub image_before: Option<String>,
    /// Whether every pod has the template and is ready.
    pub rolled_out: bool,
}

impl RunningRole {
    /// What runs, from the objects of a role.
    #[must_use]
    pub fn of(stateful_set: &StatefulSet, config: Option<ConfigMap>) -> Self {
        let spec = stateful_set.spec.as_ref();
        let template = spec.map(|spec| spec.template.clone()).unwrap_or_default();
        let given = stateful_set.annotations().get(IMAGE).cloned();
        Self {
            image: given.or_else(|| image_of(&template).map(str::to_owned)),
            template,
            config: config.and_then(|config| config.data),
            image_before: stateful_set.annotations().get(IMAGE_BEFORE).cloned(),
            rolled_out: observe_role(stateful_set).rolled_out,
        }
    }
}

/// The roles that keep their image for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBack(Vec<Held>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    role: Role,
    waits_for: Role,
    image: String,
}

impl HeldBack {
    /// Which role keeps which image and waits for whom; `None` when none does.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        let held = self.0.iter().map(|held| {
            let (role, other) = (held.role.as_str(), held.waits_for.as_str());
            let image = &held.image;
            format!(
                "{role}: stays at {image} until every {other} pod has the new image and is ready"
            )
        });
        let held: Vec<String> = held.collect();
        (!held.is_empty()).then(|| held.join("; "))
    }
}

/// Where a role stands.
struct Place<'a> {
    role: Role,
    running: Option<&'a RunningRole>,
    /// The image its pods are to have.
    wanted: String,
}

impl Place<'_> {
    fn image(&self) -> Option<&str> {
        self.running.and_then(|running| running.image.as_deref())
    }

    /// Every pod is ready, and has the image it is to have.
    fn has_arrived(&self) -> bool {
        let rolled_out = self.running.is_some_and(|running| running.rolled_out);
        rolled_out && self.image() == Some(&self.wanted)
    }

    /// The image that is given up, and the role that comes first, if there is one.
    fn waits<'b>(&'b self, earlier: &[Place<'_>]) -> Option<(&'b RunningRole, &'b str, Role)> {
        let (running, image) = (self.running?, self.image()?);
        let goes_back = running.image_before.as_deref() == Some(&self.wanted);
        if image == self.wanted || goes_back {
            return None;
        }
        let first = earlier.iter().find(|earlier| !earlier.has_arrived())?;
        Some((running, image, first.role))
    }
}

/// Leaves the roles whose turn has not come as they are, and notes at the others which image they had.
pub fn hold_back(
    desired: &mut Resources<Desired>,
    names: &Names,
    running: &BTreeMap<Role, RunningRole>,
) -> HeldBack {
    let places: Vec<Place<'_>> = ORDER
        .into_iter()
        .filter_map(|role| {
            let name = names.role(role);
            let wanted = named(&desired.stateful_sets, &name)?;
            let template = &wanted.spec.as_ref()?.template;
            Some(Place {
                role,
                running: running.get(&role),
                wanted: image_of(template)?.to_owned(),
            })
        })
        .collect();
    let all_arrived = places.iter().all(Place::has_arrived);
    let mut held_back = HeldBack::default();
    for (at, place) in places.iter().enumerate() {
        let name = names.role(place.role);
        if let Some((running, image, waits_for)) = place.waits(&places[..at]) {
            keep(desired, &name, running);
            note(desired, &name, IMAGE, Some(image.to_owned()));
            note(desired, &name, IMAGE_BEFORE, running.image_before.clone());
            held_back.0.push(Held {
                role: place.role,
                waits_for,
                image: image.to_owned(),
            });
            continue;
        }
        note(desired, &name, IMAGE, Some(place.wanted.clone()));
        if !all_arrived {
            let before = place
                .running
                .and_then(|running| running.image_before.clone());
            let given_up = place.image().filter(|image| *image != place.wanted);
            let before = before.or(given_up.map(str::to_owned));
            note(desired, &name, IMAGE_BEFORE, before);
        }
    }
    held_back
}

/// Puts what runs into the place of what is wanted.
fn keep(desired: &mut Resources<Desired>, name: &str, running: &RunningRole) {
    let set = named_mut(&mut desired.stateful_sets, name);
    if let Some(spec) = set.and_then(|set| set.spec.as_mut()) {
        spec.template = running.template.clone();
    }
    let config = named_mut(&mut desired.config_maps, name);
    if let (Some(config), Some(data)) = (config, &running.config) {
        config.data = Some(data.clone());
    }
}

fn note(desired: &mut Resources<Desired>, name: &str, what: &str, image: Option<String>) {
    let set = named_mut(&mut desired.stateful_sets, name);
    if let (Some(set), Some(image)) = (set, image) {
        set.annotations_mut().insert(what.to_owned(), image);
    }
}

fn image_of(template: &PodTemplateSpec) -> Option<&str> {
    let containers = &template.spec.as_ref()?.containers;
    let ours = containers.iter().find(|each| each.name == CONTAINER)?;
    ours.image.as_deref()
}

fn named<'a, K: ResourceExt>(objects: &'a [K], name: &str) -> Option<&'a K> {
    objects
        .iter()
        .find(|each| each.meta().name.as_deref() == Some(name))
}

fn named_mut<'a, K: ResourceExt>(objects: &'a mut [K], name: &str) -> Option<&'a mut K> {
    objects
        .iter_mut()
        .find(|each| each.meta().name.as_deref() == Some(name))
}

#[cfg(test)]
mod tests;
