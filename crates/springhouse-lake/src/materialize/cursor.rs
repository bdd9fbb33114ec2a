//! The note beside a view: how far its history is loaded, and the job under way. JSON, so that people can read it.

use crate::error::{LakeError, Result};
use crate::source::scan::{Origin, ScanFile, SourceFiles, SourceRows};
use serde::{Deserialize, Serialize};
use springhouse_core::Micros;

/// The version of the note's format.
const VERSION: u32 = 1;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileNote {
    name: String,
    size: u64,
    modified_ns: i64,
    /// The greatest `visible_at` in it, where it was read whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_visible: Option<Micros>,
}

impl FileNote {
    pub(crate) fn of(file: &ScanFile) -> Self {
        let file = &file.file;
        Self { name: file.name.clone(), size: file.size, modified_ns: file.modified_ns, last_visible: None }
    }

    fn is(&self, file: &ScanFile) -> bool {
        let file = &file.file;
        self.name == file.name && self.size == file.size && self.modified_ns == file.modified_ns
    }
}

/// How far history is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableCursor {
    /// The number of the last job.
    pub job: u64,
    /// Rows visible up to this moment are loaded.
    pub until: Micros,
    /// Stream rows with an offset below this are loaded.
    pub stream_end: i64,
    files: Vec<FileNote>,
}

impl Default for TableCursor {
    fn default() -> Self {
        Self { job: 0, until: Micros::MIN, stream_end: 0, files: Vec::new() }
    }
}

/// A job under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobNote {
    /// Its number.
    pub job: u64,
    /// Rows visible up to this moment are loaded by it.
    pub until: Micros,
    /// Stream rows with an offset below this are loaded by it.
    pub stream_end: i64,
    /// The files that it knows of.
    pub files: Vec<FileNote>,
    /// Into how many buckets its rows are put.
    pub buckets: u64,
    /// How many entities of a bucket are written at once, in the order of their keys; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_entities: Option<usize>,
    /// `until` of the job before.
    pub until_before: Micros,
    /// `stream_end` of the job before.
    pub stream_end_before: i64,
}

/// The whole note. Fields of others in the same text are kept as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Note {
    /// How far history is loaded.
    pub last: TableCursor,
    /// The job under way.
    pub running: Option<JobNote>,
    others: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct NoteText {
    version: u32,
    last: TableCursor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    running: Option<JobNote>,
}

/// The field of the note that is ours.
const FIELD: &str = "materialize";

impl Note {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text.filter(|t| !t.trim().is_empty()) else { return Ok(Self::default()) };
        let broken = |e: &dyn std::fmt::Display| {
            LakeError::new(
                "cursor_malformed",
                format!("the materialisation note of the view can't be read: {e}"),
            )
            .hint("run `springhouse rebuild` for the view")
        };
        let mut others: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|e| broken(&e))?;
        let Some(ours) = others.remove(FIELD) else { return Ok(Self { others, ..Self::default() }) };
        let ours: NoteText = serde_json::from_value(ours).map_err(|e| broken(&e))?;
        if ours.version != VERSION {
            return Err(broken(&format!("it has version {}, this program reads {VERSION}", ours.version)));
        }
        Ok(Self { last: ours.last, running: ours.running, others })
    }

    pub(crate) fn to_text(&self) -> String {
        let ours = NoteText { version: VERSION, last: self.last.clone(), running: self.running.clone() };
        let mut all = self.others.clone();
        all.insert(
            FIELD.to_owned(),
            serde_json::to_value(ours).expect("a note has only strings and numbers"),
        );
        serde_json::Value::Object(all).to_string()
    }

    /// Notes that a job is done. `last_visible`: per file of the scan, of those that were read.
    pub(crate) fn finish(&mut self, plan: &JobNote, files: &[ScanFile], last_visible: &[Micros]) {
        let mut noted = plan.files.clone();
        for note in &mut noted {
            let before = self.last.files.iter().find(|f| f.name == note.name).and_then(|f| f.last_visible);
            let read = files.iter().position(|f| f.origin == Origin::Table && note.is(f));
            let read = read.map(|i| last_visible[i]).filter(|at| *at > Micros::MIN);
            note.last_visible = read.max(before);
        }
        self.last =
            TableCursor { job: plan.job, until: plan.until, stream_end: plan.stream_end, files: noted };
        self.running = None;
    }
}

impl TableCursor {
    /// Reads the cursor out of a note; None when nothing was loaded yet.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>> {
        let note = Note::parse(Some(text))?;
        Ok((note.last.job > 0).then_some(note.last))
    }

    /// True when the file was there as it is now.
    pub(crate) fn knows(&self, file: &ScanFile) -> bool {
        self.files.iter().any(|f| f.is(file))
    }

    /// True when every row of the file that is visible by `until` was loaded.
    pub(crate) fn has_loaded(&self, file: &ScanFile, until: Micros) -> bool {
        let note = self.files.iter().find(|f| f.is(file));
        note.is_some_and(|f| until <= self.until || f.last_visible.is_some_and(|last| last <= self.until))
    }

    /// True when a row of a file that the cursor knows is within it.
    pub(crate) fn admits(&self, rows: &SourceRows, row: usize) -> bool {
        rows.event_time[row].max(rows.known_at[row]) <= self.until
    }

    /// True when every file that was read is still there and unchanged.
    pub(crate) fn accepts(&self, files: &SourceFiles) -> bool {
        all_there(&self.files, files)
    }

    /// Notes that there was nothing to load up to a moment and an offset.
    pub(crate) fn advance(&mut self, until: Micros, stream_end: i64) {
        self.until = until;
        self.stream_end = stream_end;
    }
}

impl JobNote {
    /// True when the file was there, as it is now, when the job began.
    pub(crate) fn knows(&self, file: &ScanFile) -> bool {
        self.files.iter().any(|f| f.is(file))
    }

    /// True when every file of the job is still there and unchanged.
    pub(crate) fn accepts(&self, files: &SourceFiles) -> bool {
        all_there(&self.files, files)
    }
}

fn all_there(noted: &[FileNote], files: &SourceFiles) -> bool {
    noted.iter().all(|note| files.files.iter().any(|f| f.origin == Origin::Table && note.is(f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_keeps_what_others_wrote() {
        let mut note = Note::parse(Some(r#"{"stream_start": 7}"#)).unwrap();
        assert_eq!(note.last, TableCursor::default());
        note.last.advance(5, 3);
        let text = note.to_text();
        assert!(text.contains(r#""stream_start":7"#), "{text}");
        assert_eq!(Note::parse(Some(&text)).unwrap(), note);
        assert_eq!(Note::parse(Some("nonsense")).unwrap_err().code, "cursor_malformed");
        assert_eq!(Note::parse(None).unwrap(), Note::default());
    }
}
