//! From a declared location to the files behind it, in one order.

use crate::error::{LakeError, Result};
use springhouse_core::definition::TableFormat;
use std::path::{Component, Path, PathBuf};

/// One file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRef {
    /// Where it is.
    pub path: PathBuf,
    /// Its name for people, manifests and sequence numbers: relative to the project when it is below it.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time, nanoseconds since 1970 (0 where the file system has none).
    pub modified_ns: i64,
    /// Values of partition columns that are not in the file itself (Delta).
    pub partition_values: Vec<(String, Option<String>)>,
}

/// A path from a location text: `file://` URLs, absolute paths, and paths relative to the project.
pub(crate) fn resolve(project: &Path, uri: &str) -> Result<PathBuf> {
    if let Some((scheme, _)) = uri.split_once("://") {
        if scheme != "file" {
            return Err(LakeError::new(
                "location_unsupported",
                format!("`{uri}` is on `{scheme}`; this build reads local files"),
            )
            .hint("mount or copy the data, and give a path or a file:// URL"));
        }
        let url = url::Url::parse(uri)
            .map_err(|e| LakeError::new("location_unsupported", format!("`{uri}` is not a URL: {e}")))?;
        return url.to_file_path().map_err(|()| {
            LakeError::new("location_unsupported", format!("`{uri}` names no local path"))
                .hint("write file:///absolute/path")
        });
    }
    let path = Path::new(uri);
    Ok(if path.is_absolute() { path.to_owned() } else { project.join(path) })
}

/// The name of a file: relative to the project when it is below it, with `/` between the parts.
pub(crate) fn file_name(project: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(project).unwrap_or(path);
    let parts: Vec<String> = relative
        .components()
        .filter(|c| !matches!(c, Component::CurDir))
        .map(|c| match c {
            Component::RootDir => String::new(),
            other => other.as_os_str().to_string_lossy().into_owned(),
        })
        .collect();
    parts.join("/")
}

/// A file with its size and time.
pub(crate) fn file_ref(project: &Path, path: PathBuf) -> Result<FileRef> {
    let metadata = std::fs::metadata(&path).map_err(|e| LakeError::unreadable(&path, &e))?;
    let name = file_name(project, &path);
    let modified_ns = modified_ns(&metadata);
    Ok(FileRef { path, name, size: metadata.len(), modified_ns, partition_values: Vec::new() })
}

/// A file's modification time, nanoseconds since 1970; 0 where the file system has none.
pub(crate) fn modified_ns(metadata: &std::fs::Metadata) -> i64 {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos() as i64)
}

/// The files of a Parquet or CSV location, sorted by name.
pub(crate) fn list_files(project: &Path, uri: &str, format: TableFormat) -> Result<Vec<FileRef>> {
    let pattern = resolve(project, uri)?;
    let text = pattern.to_string_lossy().into_owned();
    let mut paths = Vec::new();
    if text.contains(['*', '?', '[']) {
        let parts: Vec<String> =
            pattern.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        let fixed = parts.iter().take_while(|p| !p.contains(['*', '?', '['])).count();
        let root: PathBuf = parts[..fixed].iter().collect();
        expand(&root, &parts[fixed..], &mut paths)?;
    } else if pattern.is_dir() {
        let extension = if format == TableFormat::Csv { "*.csv" } else { "*.parquet" };
        expand(&pattern, &["**".to_owned(), extension.to_owned()], &mut paths)?;
    } else {
        paths.push(pattern);
    }
    if paths.is_empty() {
        return Err(LakeError::new("source_not_found", format!("no file matches `{uri}`"))
            .hint("check the path; relative paths start at the project's directory"));
    }
    let mut files = paths.into_iter().map(|p| file_ref(project, p)).collect::<Result<Vec<_>>>()?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files.dedup_by(|a, b| a.name == b.name);
    Ok(files)
}

fn expand(directory: &Path, parts: &[String], out: &mut Vec<PathBuf>) -> Result<()> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    if part == "**" {
        expand(directory, rest, out)?;
        for (path, name, is_directory) in entries(directory)? {
            if is_directory && !is_hidden(&name) {
                expand(&path, parts, out)?;
            }
        }
        return Ok(());
    }
    let is_pattern = part.contains(['*', '?', '[']);
    if !is_pattern {
        let path = directory.join(part);
        return match (rest.is_empty(), path.is_dir(), path.is_file()) {
            (true, _, true) => {
                out.push(path);
                Ok(())
            }
            (false, true, _) => expand(&path, rest, out),
            _ => Ok(()),
        };
    }
    for (path, name, is_directory) in entries(directory)? {
        // As in a shell and in every engine: `*` leaves out hidden files and those of other tools' making (`_SUCCESS`).
        if (is_hidden(&name) && !part.starts_with(['.', '_']))
            || !matches_part(part.as_bytes(), name.as_bytes())
        {
            continue;
        }
        match (rest.is_empty(), is_directory) {
            (true, false) => out.push(path),
            (false, true) => expand(&path, rest, out)?,
            _ => {}
        }
    }
    Ok(())
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_')
}

fn entries(directory: &Path) -> Result<Vec<(PathBuf, String, bool)>> {
    let listing = match std::fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(LakeError::unreadable(directory, &e)),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|e| LakeError::unreadable(directory, &e))?;
        let path = entry.path();
        let is_directory = path.is_dir();
        found.push((path, entry.file_name().to_string_lossy().into_owned(), is_directory));
    }
    Ok(found)
}

/// One path part against one pattern part: `*`, `?`, `[a-z]`, `[!a-z]`.
fn matches_part(pattern: &[u8], name: &[u8]) -> bool {
    let Some((&head, rest)) = pattern.split_first() else { return name.is_empty() };
    match head {
        b'*' => (0..=name.len()).any(|skip| matches_part(rest, &name[skip..])),
        b'?' => !name.is_empty() && matches_part(rest, &name[1..]),
        b'[' => {
            let Some(end) = rest.iter().position(|b| *b == b']') else { return false };
            let (set, after) = (&rest[..end], &rest[end + 1..]);
            let (negated, set) = match set.split_first() {
                Some((b'!' | b'^', set)) => (true, set),
                _ => (false, set),
            };
            let Some((&byte, name)) = name.split_first() else { return false };
            in_set(set, byte) != negated && matches_part(after, name)
        }
        _ => name.first() == Some(&head) && matches_part(rest, &name[1..]),
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let mut rest = set;
    while let Some((&low, tail)) = rest.split_first() {
        if let [b'-', high, after @ ..] = tail {
            if (low..=*high).contains(&byte) {
                return true;
            }
            rest = after;
        } else {
            if low == byte {
                return true;
            }
            rest = tail;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_as_a_shell_does() {
        for (pattern, name, expected) in [
            ("*.parquet", "a.parquet", true),
            ("*.parquet", "a.csv", false),
            ("2013-0[1-3]*", "2013-02-04", true),
            ("2013-0[!1-3]*", "2013-02-04", false),
            ("part-?.csv", "part-1.csv", true),
            ("part-?.csv", "part-12.csv", false),
            ("*", "", true),
        ] {
            assert_eq!(matches_part(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn files_come_in_one_order_and_hidden_ones_stay_out() {
        let project = tempfile::tempdir().unwrap();
        for name in
            ["data/b.parquet", "data/a.parquet", "data/x/c.parquet", "data/_x.parquet", "data/.d/e.parquet"]
        {
            let path = project.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let names = |uri: &str| -> Vec<String> {
            let files = list_files(project.path(), uri, TableFormat::Parquet).unwrap();
            files.into_iter().map(|f| f.name).collect()
        };
        assert_eq!(names("data/*.parquet"), ["data/a.parquet", "data/b.parquet"]);
        assert_eq!(names("data/**/*.parquet"), ["data/a.parquet", "data/b.parquet", "data/x/c.parquet"]);
        assert_eq!(names("data"), ["data/a.parquet", "data/b.parquet", "data/x/c.parquet"]);
        assert_eq!(names("*/x/c.parquet"), ["data/x/c.parquet"]);
        let url = format!("file://{}/data/a.parquet", project.path().display());
        assert_eq!(names(&url), ["data/a.parquet"]);
        let missing = list_files(project.path(), "nothing/*.parquet", TableFormat::Parquet).unwrap_err();
        assert_eq!(missing.code, "source_not_found");
        let missing = list_files(project.path(), "nothing.parquet", TableFormat::Parquet).unwrap_err();
        assert_eq!(missing.code, "file_unreadable");
        let remote = list_files(project.path(), "s3://b/x.parquet", TableFormat::Parquet).unwrap_err();
        assert_eq!(remote.code, "location_unsupported");
    }
}
