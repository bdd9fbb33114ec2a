//! A file that is written once, from its beginning to its end, by a thread of its own and past the page cache.
//!
//! A training set is on the disk before it has its name, so pages of it in memory save nothing; they cost a copy, time to
//! find them (that is most of a large training set's writing), and pages of the history that the next one reads.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Bytes of a block.
const BLOCK_BYTES: usize = 2 << 20;
/// Blocks that wait or are filled, at most.
const BLOCKS_MAX: usize = 4;
/// What address, offset and length of a write past the page cache are multiples of.
const ALIGNMENT: usize = 4096;
/// Where the page cache can't be avoided: so many bytes are brought to the disk at a time.
const FLUSH_BYTES: u64 = 64 << 20;

/// The file; dropped before [`Self::finish`], what it has is undefined.
pub(crate) struct OutputFile {
    block: Block,
    made: usize,
    full: SyncSender<Block>,
    empty: Receiver<Block>,
    writing: Option<JoinHandle<Result<()>>>,
}

struct Block {
    memory: Vec<u8>,
    /// Where the aligned part begins.
    start: usize,
    length: usize,
}

impl Block {
    fn new() -> Self {
        let memory = vec![0; BLOCK_BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, length: 0 }
    }

    /// Takes as many bytes as there is room for.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BLOCK_BYTES - self.length);
        let at = self.start + self.length;
        self.memory[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        taken
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// The same, with zeros up to the next multiple of the alignment.
    fn padded(&mut self) -> &[u8] {
        let end = self.length.next_multiple_of(ALIGNMENT);
        self.memory[self.start + self.length..self.start + end].fill(0);
        &self.memory[self.start..self.start + end]
    }
}

impl OutputFile {
    /// Creates the file, or empties it.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut target = DiskFile { file: File::create(path)?, path: path.to_owned(), direct: false };
        target.go_direct();
        let (full, blocks) = sync_channel(BLOCKS_MAX);
        let (back, empty) = channel();
        let writing = std::thread::Builder::new()
            .name("write output".to_owned())
            .spawn(move || target.write_blocks(blocks, &back))?;
        Ok(Self { block: Block::new(), made: 1, full, empty, writing: Some(writing) })
    }

    /// Writes what is left; then everything is on the disk.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { block, full, writing, .. } = self;
        // The thread ends when there is no more to wait for; if it ended before, it tells why.
        let _ = full.send(block);
        drop(full);
        ended(writing)
    }

    fn hand_on(&mut self) -> Result<()> {
        let next = match self.empty.try_recv() {
            Ok(block) => block,
            Err(_) if self.made < BLOCKS_MAX => {
                self.made += 1;
                Block::new()
            }
            Err(_) => match self.empty.recv() {
                Ok(block) => block,
                Err(_) => return Err(self.why_it_ended()),
            },
        };
        match self.full.send(std::mem::replace(&mut self.block, next)) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.why_it_ended()),
        }
    }

    fn why_it_ended(&mut self) -> Error {
        ended(self.writing.take()).err().unwrap_or_else(|| Error::other("the file was given up before"))
    }
}

fn ended(writing: Option<JoinHandle<Result<()>>>) -> Result<()> {
    let writing = writing.ok_or_else(|| Error::other("the file was given up before"))?;
    writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.block.length == BLOCK_BYTES {
            self.hand_on()?;
        }
        Ok(self.block.fill(bytes))
    }

    /// Does nothing: see [`OutputFile::finish`].
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The thread's side.
struct DiskFile {
    file: File,
    path: PathBuf,
    /// Whether writes go past the page cache.
    direct: bool,
}

impl DiskFile {
    /// Past the page cache from now on, where the file system has a way.
    fn go_direct(&mut self) {
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::OpenOptionsExt;
            if let Ok(file) = File::options().write(true).custom_flags(libc::O_DIRECT).open(&self.path) {
                self.file = file;
                self.direct = true;
            }
        }
    }

    fn write_blocks(mut self, blocks: Receiver<Block>, back: &Sender<Block>) -> Result<()> {
        let (mut length, mut flushed) = (0, 0);
        for mut block in blocks {
            self.write(&mut block, length)?;
            length += block.length as u64;
            if !self.direct && length - flushed >= FLUSH_BYTES {
                self.file.sync_data()?;
                flushed = length;
            }
            block.length = 0;
            // Nobody takes it back after the last.
            let _ = back.send(block);
        }
        // Without what was added to the last block.
        self.file.set_len(length)?;
        self.file.sync_all()
    }

    fn write(&mut self, block: &mut Block, offset: u64) -> Result<()> {
        if self.direct {
            match self.file.write_all_at(block.padded(), offset) {
                // It took the flag and has other rules.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    self.file = File::options().write(true).open(&self.path)?;
                    self.direct = false;
                }
                result => return result,
            }
        }
        self.file.write_all_at(block.bytes(), offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(direct: bool, pieces: &[&[u8]]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("output");
        let mut file = match direct {
            true => OutputFile::create(&path).expect("a file"),
            false => plain(&path),
        };
        for piece in pieces {
            file.write_all(piece).expect("bytes are taken");
        }
        file.finish().expect("everything is written");
        std::fs::read(&path).expect("a file")
    }

    /// As where the file system has only the page cache.
    fn plain(path: &Path) -> OutputFile {
        let target =
            DiskFile { file: File::create(path).expect("a file"), path: path.to_owned(), direct: false };
        let (full, blocks) = sync_channel(BLOCKS_MAX);
        let (back, empty) = channel();
        let writing = std::thread::spawn(move || target.write_blocks(blocks, &back));
        OutputFile { block: Block::new(), made: 1, full, empty, writing: Some(writing) }
    }

    #[test]
    fn what_is_written_is_in_the_file_whatever_the_pieces() {
        let long: Vec<u8> = (0..5 * BLOCK_BYTES + 4099).map(|i| (i * 7 + i / 256) as u8).collect();
        let ends =
            [0, 1, ALIGNMENT - 1, ALIGNMENT, ALIGNMENT + 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1];
        for direct in [true, false] {
            for end in ends.into_iter().chain([2 * BLOCK_BYTES, long.len()]) {
                for piece in [1013, ALIGNMENT, 3 * BLOCK_BYTES] {
                    let pieces: Vec<&[u8]> = long[..end].chunks(piece).collect();
                    assert!(
                        written(direct, &pieces) == long[..end],
                        "{end} bytes, {piece} at a time, {direct}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_write_that_breaks_the_file_systems_rules_goes_through_the_page_cache() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("output");
        let mut target =
            DiskFile { file: File::create(&path).expect("a file"), path: path.clone(), direct: false };
        target.go_direct();
        let mut block = Block::new();
        // An offset that is no multiple of anything.
        let text = b"0123456789";
        block.fill(text);
        target.direct = true;
        target.write(&mut block, 3).expect("written in another way");
        drop(target);
        let bytes = std::fs::read(&path).expect("a file");
        assert_eq!(&bytes[3..13], text);
    }

    #[test]
    fn a_disk_that_is_full_is_told() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let mut file = OutputFile::create(full).expect("a device");
        let block = vec![1; BLOCK_BYTES];
        let told = (0..2 * BLOCKS_MAX).try_for_each(|_| file.write_all(&block));
        let error = told.and_then(|()| file.finish()).expect_err("nothing can be written there");
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }
}
