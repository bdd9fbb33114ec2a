//! A file that grows, as a topic of one partition whose offsets are bytes: for laptops, where no broker runs. Each line counts once
//! by its place in the file, whatever stops when.

use crate::handle::SourceReader;
use crate::settings::KafkaSettings;
use crate::status::{Notes, SharedClock, Told};
use bytes::Bytes;
use springhouse_core::Micros;
use springhouse_core::definition::Source;
use springhouse_ingest::{Ingest, Message, Messages, OffsetRange};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::runtime::Handle;

/// How often the file is looked at, once it has been read to its end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// First and longest wait before something that failed is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// The longest line that is taken; of a longer one, this much goes to the dead letters.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Begins to read the file of a source where `ingest` says that it has been read to; `path` is where the file is. Positions in the
/// reader's status are bytes. Must be called within a tokio runtime.
///
/// # Errors
/// When the operating system gives no thread.
pub fn read_file(
    source: &Source,
    path: PathBuf,
    settings: &KafkaSettings,
    ingest: Arc<Ingest>,
    clock: SharedClock,
) -> std::io::Result<SourceReader> {
    let file = source.ndjson.clone().unwrap_or_default();
    let notes = Arc::new(Notes::new(&source.name, &file, 0));
    let known = ingest.topic_positions(&source.name, &file);
    let position = known.get(&0).map_or(0, |position| position.next);
    let newest = known.get(&0).map(|position| position.newest);
    notes.begin(0, position, newest.filter(|newest| *newest > Micros::MIN));
    let stop = Arc::new(AtomicBool::new(false));
    let tailing = Tailing {
        source: source.name.clone(),
        file,
        path,
        bytes_max: settings.batch_bytes_max,
        ingest,
        clock,
        notes: notes.clone(),
        stop: stop.clone(),
        runtime: Handle::current(),
        position,
        looks: 0,
    };
    SourceReader::begin(source, notes, stop, move || tailing.run())
}

struct Tailing {
    source: String,
    /// As the definition has it: the topic's name in the log.
    file: String,
    path: PathBuf,
    bytes_max: usize,
    ingest: Arc<Ingest>,
    clock: SharedClock,
    notes: Arc<Notes>,
    stop: Arc<AtomicBool>,
    runtime: Handle,
    position: i64,
    looks: u64,
}

/// Whole lines of the file.
struct Lines {
    messages: Vec<Message>,
    /// The byte behind the last.
    end: i64,
}

impl Tailing {
    fn run(mut self) {
        let mut wait = RETRY_FIRST;
        while !self.stop.load(SeqCst) {
            match self.look() {
                Ok(true) => wait = RETRY_FIRST,
                Ok(false) => {
                    wait = RETRY_FIRST;
                    self.sleep(LOOK_EVERY);
                }
                Err(why) => {
                    self.notes.fail(why);
                    self.sleep(wait);
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    fn sleep(&self, duration: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(duration).await });
    }

    /// Reads on; false at the end.
    fn look(&mut self) -> Result<bool, String> {
        // What is appended after the file's length was asked for comes after this moment.
        let now = self.clock.now();
        let Some((mut file, length)) = self.open()? else {
            self.at_end(0, now);
            return Ok(false);
        };
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        if length < self.position || !self.follows_a_line(&mut file).map_err(failed)? {
            return Err(format!(
                "{} has {length} bytes and has been read up to byte {}, where no line ends any more: it was cut or made anew; \
                 give the new file another name, or the source",
                self.path.display(),
                self.position
            ));
        }
        let Some(lines) = self.lines(&mut file).map_err(failed)? else {
            // Half a line at the most: it counts when it ends.
            self.at_end(length, now);
            return Ok(false);
        };
        self.take(lines, now)?;
        Ok(true)
    }

    fn open(&self) -> Result<Option<(File, i64)>, String> {
        let opened = File::open(&self.path).and_then(|file| {
            let length = file.metadata()?.len();
            Ok((file, i64::try_from(length).unwrap_or(i64::MAX)))
        });
        match opened {
            Ok(opened) => Ok(Some(opened)),
            // It may come.
            Err(error) if error.kind() == ErrorKind::NotFound && self.position == 0 => Ok(None),
            Err(error) => Err(format!("{}: {error}", self.path.display())),
        }
    }

    /// True when a line ends where reading goes on; in another file it seldom would.
    fn follows_a_line(&self, file: &mut File) -> std::io::Result<bool> {
        let Some(before) = u64::try_from(self.position).ok().and_then(|position| position.checked_sub(1))
        else {
            return Ok(true);
        };
        let mut byte = [0];
        file.seek(SeekFrom::Start(before))?;
        file.read_exact(&mut byte)?;
        Ok(byte == *b"\n")
    }

    fn at_end(&mut self, length: i64, now: Micros) {
        self.looks += 1;
        let told = Told {
            partition: 0,
            leader: 0,
            leader_answers: Some(self.looks),
            end: length,
            next: length,
            waiting: 0,
        };
        self.notes.told(&[told], now);
    }

    /// The next whole lines; none when there is none.
    fn lines(&self, file: &mut File) -> std::io::Result<Option<Lines>> {
        let start = u64::try_from(self.position).unwrap_or_default();
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        let mut limit = self.bytes_max;
        let end = loop {
            let missing = limit - bytes.len();
            let read = file.by_ref().take(missing as u64).read_to_end(&mut bytes)?;
            if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
                break end + 1;
            }
            if read < missing {
                return Ok(None);
            }
            if bytes.len() >= LINE_BYTES_MAX {
                return self.too_long(file, bytes);
            }
            limit = (limit * 2).min(LINE_BYTES_MAX);
        };
        bytes.truncate(end);
        let bytes = Bytes::from(bytes);
        let mut messages = Vec::new();
        let mut from = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let to = from + line.len();
            if !line.trim_ascii().is_empty() {
                messages.push(message(self.position + from as i64, bytes.slice(from..to)));
            }
            from = to;
        }
        Ok(Some(Lines { messages, end: self.position + end as i64 }))
    }

    /// A line that is too long to be taken, as one message that is refused; none while its end is not there.
    fn too_long(&self, file: &mut File, start: Vec<u8>) -> std::io::Result<Option<Lines>> {
        let mut length = start.len();
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                return Ok(None);
            }
            if let Some(end) = piece[..read].iter().position(|byte| *byte == b'\n') {
                length += end + 1;
                break;
            }
            length += read;
        }
        let why = format!("the line has {length} bytes; at most {LINE_BYTES_MAX} are taken");
        let mut message = message(self.position, Bytes::from(start));
        message.flaw = Some(("out_of_range", why));
        Ok(Some(Lines { messages: vec![message], end: self.position + length as i64 }))
    }

    fn take(&mut self, lines: Lines, now: Micros) -> Result<(), String> {
        // A line is known from the moment that it is read: whatever was known before it is applied with it, and stays so after
        // a restart that can't read the file.
        let range = OffsetRange { partition: 0, from: self.position, to: lines.end, newest: now };
        let count = lines.messages.len() as u64;
        let messages = Messages {
            source: self.source.clone(),
            topic: self.file.clone(),
            ranges: vec![range],
            messages: lines.messages,
        };
        self.notes.handed(0, lines.end);
        let taken = self.runtime.block_on(self.ingest.submit_messages(messages));
        // What was not taken, or not for sure, is read and given again: it counts once.
        taken.map_err(|error| format!("nothing more is taken: {error}"))?;
        self.notes.applied(&[range], count, 0);
        self.position = lines.end;
        Ok(())
    }
}

fn message(offset: i64, value: Bytes) -> Message {
    Message {
        partition: 0,
        offset,
        timestamp: None,
        key: None,
        value: Some(value),
        headers: Vec::new(),
        flaw: None,
    }
}
