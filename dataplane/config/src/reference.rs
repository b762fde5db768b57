//! The generated pages: the reference of all settings and the commented sample.

use crate::setting::{ENV_PREFIX, Section, Setting, sections};

/// Width of the comments in the sample, in characters.
const COMMENT_WIDTH: usize = 90;

/// `docs/reference/configuration.md`: every setting with environment name, type, default, meaning.
#[must_use]
pub fn reference_page() -> String {
    let mut page = format!(
        "<!-- Generated from dataplane/config; change the doc comments there and run its tests \
         with UPDATE_EXPECT=1. -->\n\
         # Configuration of the data plane\n\n\
         Later layers win, setting by setting:\n\n\
         1. defaults\n\
         2. YAML files, in the order of `--config FILE`\n\
         3. environment variables: `{ENV_PREFIX}SECTION__KEY`\n\
         4. flags\n\n\
         Unknown settings and values of the wrong type are errors: the process exits with code 2 \
         and names the setting, where its value came from and what is allowed. `flightcluster \
         config print --origin` shows the effective values and the layer of each.\n\n\
         - **size**: `64MiB`, `1GB` or a number of bytes\n\
         - **duration**: `2ms`, `5s`, `15m`, `1h30m`; always with its unit\n\
         - **true or false**: these two words only\n\
         - **list of paths**: a YAML list; separated by commas in the environment\n\
         - Empty text unsets a setting that can be unset. Relative paths start at the working \
         directory. Secrets are never values, only files that are named.\n"
    );
    for section in sections() {
        push_section(section, &mut page);
    }
    page
}

fn push_section(section: &Section, page: &mut String) {
    page.push_str(&format!(
        "\n## `{}`\n\n{}\n",
        section.key, section.description
    ));
    if section.settings.is_empty() {
        return;
    }
    page.push_str("\n| setting | type | default | meaning |\n|---|---|---|---|\n");
    for setting in &section.settings {
        let Setting {
            key,
            env,
            kind,
            default,
            description,
            ..
        } = setting;
        let default = if setting.optional {
            "unset".to_owned()
        } else {
            format!("`{default}`")
        };
        page.push_str(&format!(
            "| `{key}`<br>`{env}` | {kind} | {default} | {} |\n",
            description.replace('|', "\\|")
        ));
    }
}

/// `docs/reference/flightcluster.sample.yaml`: every setting with its default, commented out.
///
/// The text is a valid configuration as it is, and with any of its settings uncommented.
#[must_use]
pub fn sample() -> String {
    let mut text = String::from(
        "# All settings of the data plane with their defaults. Remove the # in front of a setting\n\
         # to change it. Generated from dataplane/config.\n",
    );
    for section in sections() {
        let depth = section.key.matches('.').count();
        let name = section.key.rsplit('.').next().unwrap_or_default();
        let indent = "  ".repeat(depth);
        text.push('\n');
        push_comment(&indent, &section.description, &mut text);
        text.push_str(&format!("{indent}{name}:\n"));
        for setting in &section.settings {
            let indent = "  ".repeat(depth + 1);
            push_comment(&indent, &setting.description, &mut text);
            push_comment(
                &indent,
                &format!("({}; {})", setting.kind, setting.env),
                &mut text,
            );
            text.push_str(&format!(
                "{indent}#{}: {}\n",
                setting.name(),
                setting.default
            ));
        }
    }
    text
}

fn push_comment(indent: &str, comment: &str, text: &mut String) {
    let mut line = String::new();
    for word in comment.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() >= COMMENT_WIDTH {
            text.push_str(&format!("{indent}#{line}\n"));
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&format!("{indent}#{line}\n"));
}
