//! The configuration as it was last received, kept in a file for the next start (ADR 0012).
//!
//! The resources are kept as they came, so that they are read by the code that reads them from the wire. The file is
//! written whole, beside the one before, and used only if it is whole: what cannot be vouched for is not used at all,
//! since a policy that is missing would let through what it refuses.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fairway_proto::discovery::Resource;
use prost::Message;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};

use super::session::ResourceType;

mod keeper;
#[cfg(test)]
mod tests;

pub use keeper::Keeper;
pub(in crate::io::xds) use keeper::Received;

/// First bytes of the file; the last one is the version of the format.
const MAGIC: &[u8; 18] = b"fairway-last-good\x01";
/// Name of the file, and of the one that is being written.
const FILE: (&str, &str) = ("last-good-configuration", "last-good-configuration.new");
/// Bytes of one record or of the header: beyond it the length is damaged.
const MAXIMUM_RECORD: usize = 64 * 1024 * 1024;
/// After the last record.
const END: u8 = 0;

/// Whose configuration it is; anybody else's is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The cluster.
    pub cluster: String,
    /// The node, whose pods may be all that was asked for.
    pub node: String,
    /// Whether only what was asked for is in it, which must never be taken for all there is.
    pub on_demand: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    owner: Owner,
    /// Whether the server understands digests.
    digests: bool,
    /// Seconds since 1970.
    written: u64,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// The disk refuses.
    #[error("cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// It is no such file, or of another version.
    #[error("is of another version or no such file")]
    Version,
    /// It is damaged.
    #[error("is cut off or damaged")]
    Damaged,
    /// It is somebody else's.
    #[error("belongs to cluster {:?}, node {:?}, on demand: {}", .0.cluster, .0.node, .0.on_demand)]
    Owner(Owner),
}

/// What is in the file under one name: the last version that was accepted, and a later one that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    resource_type: ResourceType,
    is_refused: bool,
}

impl Slot {
    fn byte(self) -> u8 {
        let kind = match self.resource_type {
            ResourceType::Address => 1,
            ResourceType::Authorization => 3,
        };
        kind + u8::from(self.is_refused)
    }

    fn of(byte: u8) -> Option<Self> {
        let (resource_type, is_refused) = match byte {
            1 | 2 => (ResourceType::Address, byte == 2),
            3 | 4 => (ResourceType::Authorization, byte == 4),
            _ => return None,
        };
        Some(Self { resource_type, is_refused })
    }
}

/// Changes since the file was written: by slot and name the encoded resource, or nothing if it is gone.
#[derive(Clone, Debug, Default)]
struct Changes(BTreeMap<(Slot, String), Option<Vec<u8>>>);

impl Changes {
    fn set(&mut self, slot: Slot, name: &str, resource: Option<Vec<u8>>) {
        self.0.insert((slot, name.to_owned()), resource);
    }

    /// Adds later changes.
    fn then(&mut self, later: Self) {
        self.0.extend(later.0);
    }
}

/// A file that is whole.
#[derive(Debug)]
struct Stored {
    header: Header,
    file: File,
}

impl Stored {
    /// Opens the file and reads it once, to see that it is whole and `owner`'s.
    fn open(path: &Path, owner: &Owner) -> Result<Self, Unusable> {
        // Opening a pipe would wait for a writer.
        if !fs::metadata(path)?.is_file() {
            return Err(Unusable::Version);
        }
        let mut file = File::open(path)?;
        let mut hashing = Hashing::new(BufReader::new(&mut file));
        let header = read_header(&mut hashing)?;
        while read_record(&mut hashing)?.is_some() {}
        hashing.verify()?;
        if header.owner != *owner {
            return Err(Unusable::Owner(header.owner));
        }
        file.rewind()?;
        Ok(Self { header, file })
    }

    fn written(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.header.written)
    }

    /// Gives every record, as encoded resource.
    fn each(&mut self, mut give: impl FnMut(Slot, Vec<u8>) -> Result<(), Unusable>) -> Result<(), Unusable> {
        self.file.rewind()?;
        let mut hashing = Hashing::new(BufReader::new(&mut self.file));
        read_header(&mut hashing)?;
        while let Some((slot, bytes)) = read_record(&mut hashing)? {
            give(slot, bytes)?;
        }
        // The disk may have changed its mind since.
        hashing.verify()
    }
}

fn read_header(reader: &mut impl Read) -> Result<Header, Unusable> {
    let mut magic = [0; MAGIC.len()];
    exact(reader, &mut magic)?;
    if magic != *MAGIC {
        return Err(Unusable::Version);
    }
    serde_json::from_slice(&read_block(reader)?).map_err(|_| Unusable::Damaged)
}

fn read_record(reader: &mut impl Read) -> Result<Option<(Slot, Vec<u8>)>, Unusable> {
    let mut kind = [0];
    exact(reader, &mut kind)?;
    if kind == [END] {
        return Ok(None);
    }
    let slot = Slot::of(kind[0]).ok_or(Unusable::Damaged)?;
    Ok(Some((slot, read_block(reader)?)))
}

fn read_block(reader: &mut impl Read) -> Result<Vec<u8>, Unusable> {
    let mut length = [0; 4];
    exact(reader, &mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAXIMUM_RECORD {
        return Err(Unusable::Damaged);
    }
    let mut bytes = Vec::new();
    // Grows with what is there, whatever the length says.
    let read = reader.by_ref().take(u64::try_from(length).unwrap_or(0)).read_to_end(&mut bytes)?;
    if read == length { Ok(bytes) } else { Err(Unusable::Damaged) }
}

fn exact(reader: &mut impl Read, bytes: &mut [u8]) -> Result<(), Unusable> {
    reader.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Unusable::Damaged,
        _ => Unusable::Disk(error),
    })
}

/// Writes the file anew: what is in `base` and `changes` do not touch, then what they set.
fn write(directory: &Path, base: Option<&mut Stored>, changes: &Changes, header: &Header) -> Result<(), Unusable> {
    let temporary = directory.join(FILE.1);
    let written = write_to(&temporary, base, changes, header).and_then(|()| {
        fs::rename(&temporary, directory.join(FILE.0))?;
        // The rename itself must survive a loss of power.
        Ok(File::open(directory)?.sync_all()?)
    });
    if written.is_err() {
        // A full disk has better use for the space.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_to(path: &Path, base: Option<&mut Stored>, changes: &Changes, header: &Header) -> Result<(), Unusable> {
    let mut hashing = Hashing::new(BufWriter::new(create(path)?));
    hashing.write_all(MAGIC)?;
    write_block(&mut hashing, &serde_json::to_vec(header).map_err(io::Error::other)?)?;
    if let Some(base) = base {
        base.each(|slot, bytes| {
            let name = Resource::decode(&*bytes).map_err(|_| Unusable::Damaged)?.name;
            if changes.0.contains_key(&(slot, name)) {
                return Ok(());
            }
            hashing.write_all(&[slot.byte()])?;
            write_block(&mut hashing, &bytes)
        })?;
    }
    for ((slot, _), resource) in &changes.0 {
        if let Some(bytes) = resource {
            hashing.write_all(&[slot.byte()])?;
            write_block(&mut hashing, bytes)?;
        }
    }
    hashing.write_all(&[END])?;
    let mut writer = hashing.finish()?;
    writer.flush()?;
    Ok(writer.get_ref().sync_all()?)
}

/// For our eyes only: it says who may talk to whom.
fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn write_block(writer: &mut impl Write, bytes: &[u8]) -> Result<(), Unusable> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a resource of more than 4 GiB"))?;
    writer.write_all(&length.to_be_bytes())?;
    Ok(writer.write_all(bytes)?)
}

/// Sums what passes; the sum is the end of the file.
struct Hashing<T> {
    inner: T,
    context: Context,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, context: Context::new(&SHA256) }
    }
}

impl<R: Read> Hashing<R> {
    fn verify(mut self) -> Result<(), Unusable> {
        let mut expected = [0; SHA256_OUTPUT_LEN];
        exact(&mut self.inner, &mut expected)?;
        let nothing_more = self.inner.read(&mut [0])? == 0;
        let is_whole = self.context.finish().as_ref() == expected && nothing_more;
        if is_whole { Ok(()) } else { Err(Unusable::Damaged) }
    }
}

impl<W: Write> Hashing<W> {
    fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(self.context.finish().as_ref())?;
        Ok(self.inner)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.context.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.context.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
