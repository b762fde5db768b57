//! Layers: defaults, then files, then environment, then flags. Each value remembers its layer.
//!
//! Everything is checked leaf by leaf while it is laid over the layer below, so that a message can
//! name the setting, where its value came from, and what would be right. Nothing is guessed and
//! nothing unknown is ignored: a misspelt `client_auth` that is silently dropped is an open door.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::problem::{Error, Origin, Problem, Problems};
use crate::setting::{ENV_PREFIX, Setting, env_name, sections, settings};
use crate::suggest::{nearest, unknown_setting};
use crate::yaml::{self, Mapping, Value};
use crate::{Config, Role};

/// What a configuration is put together from.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// YAML files; later ones win, setting by setting. Lists are replaced, not joined.
    pub files: Vec<PathBuf>,
    /// Environment variables (name, value), usually [`process_env`]. Names that don't begin with
    /// [`ENV_PREFIX`] are left alone.
    pub env: Vec<(String, String)>,
    /// Values of command line flags; later ones win.
    pub flags: Vec<FlagValue>,
    /// Who will use it: `standalone` keeps its data in the user's data directory by default.
    pub role: Option<Role>,
}

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValue {
    /// The flag as the user typed it, such as `--data-dir`; only for messages and origins.
    pub flag: String,
    /// Dotted name of the setting, such as `storage.data_dir`.
    pub key: String,
    /// The value as text.
    pub value: String,
}

impl FlagValue {
    /// The value of a flag that stands for a setting.
    pub fn new(flag: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            flag: flag.into(),
            key: key.into(),
            value: value.into(),
        }
    }
}

/// A configuration, and where each value came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Origin of every setting, by dotted name.
    pub origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// [`Config::validate`], with the origin of the setting in each problem.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn validate(&self, role: Role) -> Result<(), Problems> {
        let located = |problem: Problem| match self.origins.get(&problem.setting) {
            Some(origin) => problem.with_origin(origin),
            None => problem,
        };
        self.config
            .validate(role)
            .map_err(|problems| Problems(problems.into_iter().map(located).collect()))
    }
}

/// The environment of this process, as far as it concerns the configuration.
///
/// # Errors
/// [`Error::EnvNotText`] when the value of one of our variables is not UTF-8.
pub fn process_env() -> Result<Vec<(String, String)>, Error> {
    let home = ["HOME", "XDG_DATA_HOME"];
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => env.push((name, value)),
            Err(_) if name.starts_with(ENV_PREFIX) || home.contains(&name.as_str()) => {
                return Err(Error::EnvNotText { name });
            }
            Err(_) => {}
        }
    }
    Ok(env)
}

/// Puts the layers together.
///
/// Reads the files and nothing else. The result is well typed but not yet safe to start with: call
/// [`Loaded::validate`].
///
/// # Errors
/// A file that can't be read or parsed at once; unknown settings and wrong values of all layers
/// together as [`Error::Settings`].
pub fn load(options: &LoadOptions) -> Result<Loaded, Error> {
    let mut layers = Layers::defaults(options);
    for path in &options.files {
        layers.add_file(path)?;
    }
    layers.add_env(&options.env);
    for flag in &options.flags {
        layers.add_text(&flag.key, &flag.value, &Origin::Flag(flag.flag.clone()));
    }
    layers.finish()
}

/// The configuration so far.
struct Layers {
    tree: Value,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Layers {
    fn defaults(options: &LoadOptions) -> Self {
        let mut config = Config::default();
        if let (Some(Role::Standalone), Some(home)) = (options.role, data_home(&options.env)) {
            config.storage.data_dir = home.join("flightcluster");
        }
        let origins = settings()
            .map(|setting| (setting.key.clone(), Origin::Default))
            .collect();
        Self {
            tree: yaml::to_tree(&config),
            origins,
            problems: Vec::new(),
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ReadFile {
            path: path.to_owned(),
            source,
        })?;
        let tree = yaml::parse(&text).map_err(|source| Error::ParseFile {
            path: path.to_owned(),
            source,
        })?;
        let origin = Origin::File(path.to_owned());
        match tree {
            Value::Null => {}
            Value::Mapping(map) => self.add_section("", map, &origin),
            _ => {
                let message =
                    "expected sections with settings, such as server: {listen_port: 17001}";
                self.problem("configuration", message, &origin);
            }
        }
        Ok(())
    }

    fn add_section(&mut self, parent: &str, map: Mapping, origin: &Origin) {
        for (name, value) in map {
            let name = match &name {
                Value::String(name) => name.clone(),
                other => yaml::leaf_text(other),
            };
            let key = if parent.is_empty() {
                name
            } else {
                format!("{parent}.{name}")
            };
            let is_section = sections().iter().any(|section| section.key == key);
            match (value, find(&key)) {
                (value, Some(setting)) => {
                    let checked = setting.check(value);
                    self.set(setting, checked, origin);
                }
                // `server:` with everything below it commented out.
                (Value::Null, None) if is_section => {}
                (Value::Mapping(map), None) if is_section => self.add_section(&key, map, origin),
                (_, None) if is_section => {
                    self.problem(&key, "is a section; expected settings below it", origin);
                }
                (_, None) => self.problem(&key, unknown_setting(&key), origin),
            }
        }
    }

    fn add_env(&mut self, env: &[(String, String)]) {
        for (name, value) in env {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
                continue;
            };
            let origin = Origin::Env(name.clone());
            if rest.contains("__") {
                let key = rest.replace("__", ".").to_ascii_lowercase();
                match find(&key).filter(|setting| setting.env == *name) {
                    Some(_) => self.add_text(&key, value, &origin),
                    None => self.problem(&key, unknown_env(&key), &origin),
                }
            } else if let Some(meant) = settings().find(|setting| collapsed(&setting.env) == *name)
            {
                // Other names with one underscore are not ours to judge: Kubernetes makes
                // FLIGHTCLUSTER_PORT and the like from a Service of that name, and clients read
                // FLIGHTCLUSTER_TOKEN.
                let message = format!("sections are set off by two underscores: {}", meant.env);
                self.problem(&meant.key, message, &origin);
            }
        }
    }

    fn add_text(&mut self, key: &str, text: &str, origin: &Origin) {
        match find(key) {
            Some(setting) => self.set(setting, setting.parse_text(text), origin),
            None => self.problem(key, unknown_setting(key), origin),
        }
    }

    fn set(&mut self, setting: &Setting, value: Result<Value, String>, origin: &Origin) {
        let value = match value {
            Ok(value) => value,
            Err(message) => return self.problem(&setting.key, message, origin),
        };
        let mut place = &mut self.tree;
        for name in setting.key.split('.') {
            let Some(next) = place.get_mut(name) else {
                return;
            };
            place = next;
        }
        *place = value;
        self.origins.insert(setting.key.clone(), origin.clone());
    }

    fn problem(&mut self, setting: &str, message: impl Into<String>, origin: &Origin) {
        let name = crate::setting::shorten(setting);
        self.problems
            .push(Problem::new(name, message).with_origin(origin));
    }

    fn finish(mut self) -> Result<Loaded, Error> {
        if self.problems.is_empty() {
            match yaml::from_tree(self.tree) {
                Ok(config) => {
                    return Ok(Loaded {
                        config,
                        origins: self.origins,
                    });
                }
                // Every leaf was checked, so this is a kind that is laxer than its type.
                Err(cause) => self
                    .problems
                    .push(Problem::new("configuration", cause.to_string())),
            }
        }
        Err(Error::Settings(Problems(self.problems)))
    }
}

fn find(key: &str) -> Option<&'static Setting> {
    settings().find(|setting| setting.key == key)
}

fn unknown_env(key: &str) -> String {
    match nearest(key).filter(|known| find(known).is_some()) {
        Some(known) => format!("unknown setting; did you mean {}?", env_name(known)),
        None => unknown_setting(key),
    }
}

fn collapsed(env: &str) -> String {
    env.replace("__", "_")
}

/// The directory for a user's data, by the XDG rules.
fn data_home(env: &[(String, String)]) -> Option<PathBuf> {
    let value = |wanted: &str| {
        let found = env
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| Path::new(value));
        found.filter(|path| path.is_absolute())
    };
    let home = || value("HOME").map(|home| home.join(".local/share"));
    value("XDG_DATA_HOME").map(Path::to_owned).or_else(home)
}
