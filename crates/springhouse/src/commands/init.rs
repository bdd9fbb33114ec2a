//! `springhouse init NAME`: a small project that validates, applies and serves as it is.

use crate::output;
use anyhow::{Context, bail};
use clap::Args;
use springhouse_core::{definition_schema, settings::settings_schema};
use springhouse_node::{FEATURES_FOLDER, SETTINGS_FILE, STATE_FOLDER};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `springhouse init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The project's folder; `.` is this one.
    name: PathBuf,
}

/// The definitions of a new project.
const FEATURES: &str = include_str!("init/features.yaml");
/// The settings of a new project; `{project}` stands for its name.
const SETTINGS: &str = include_str!("init/springhouse.yaml");

pub(crate) async fn run(args: InitArgs) -> anyhow::Result<ExitCode> {
    let root = std::path::absolute(&args.name).context("the folder has no absolute path")?;
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if root.join(SETTINGS_FILE).exists() {
        bail!(
            "{} is a project already\n  = help: `springhouse validate` checks it; `init` never overwrites a file",
            args.name.display()
        );
    }
    let files: [(PathBuf, String); 5] = [
        (SETTINGS_FILE.into(), SETTINGS.replace("{project}", &quoted(&name))),
        (Path::new(FEATURES_FOLDER).join("orders.yaml"), FEATURES.to_owned()),
        (Path::new(STATE_FOLDER).join("schema.json"), serde_json::to_string_pretty(&definition_schema())?),
        (
            Path::new(STATE_FOLDER).join("settings.schema.json"),
            serde_json::to_string_pretty(&settings_schema())?,
        ),
        (".gitignore".into(), format!("{STATE_FOLDER}/\n")),
    ];
    for (path, text) in &files {
        write_new(&root.join(path), text)?;
    }
    output::note(&format!("made the project {}:", args.name.display()));
    for (path, _) in files.iter().take(2) {
        output::note(&format!("  {}", args.name.join(path).display()));
    }
    let enter =
        if args.name == Path::new(".") { String::new() } else { format!("cd {} && ", args.name.display()) };
    output::note(&format!("next: {enter}springhouse plan && springhouse apply && springhouse serve"));
    Ok(ExitCode::SUCCESS)
}

/// A name as a YAML text, whatever is in it.
fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if is_plain { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}

/// Writes a file that is not there yet, and its folders; one that is there is left as it is.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    }
    let mut options = std::fs::OpenOptions::new();
    match options.write(true).create_new(true).open(path) {
        Ok(mut file) => std::io::Write::write_all(&mut file, text.as_bytes())
            .with_context(|| format!("{} can't be written", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{} can't be written", path.display())),
    }
}
