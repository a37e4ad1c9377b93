//! A connected share, and the few requests of MS-SMB2 that the plugin sends there.
//!
//! The library builds, signs, encrypts and sends messages, counts credits, matches answers and keeps deadlines; its own
//! calls for files follow names over several requests and hold whole files, so this module speaks of open files instead.
//! Answers come from a server that is not trusted: lengths in them are looked at before they are used.

use smb2::client::Connection;
use smb2::msg::close::CloseRequest;
use smb2::msg::create::{CreateDisposition, CreateRequest, CreateResponse, ImpersonationLevel, ShareAccess};
use smb2::msg::directory_info::{DirectoryInfoEntry, parse_entries};
use smb2::msg::flush::FlushRequest;
use smb2::msg::query_directory::{
    FileInformationClass, QueryDirectoryFlags, QueryDirectoryRequest, QueryDirectoryResponse,
};
use smb2::msg::query_info::{InfoType, QueryInfoRequest, QueryInfoResponse};
use smb2::msg::read::{ReadRequest, ReadResponse, SMB2_READFLAG_READ_UNBUFFERED};
use smb2::msg::set_info::SetInfoRequest;
use smb2::msg::write::{WriteRequest, WriteResponse};
use smb2::pack::{FileTime, Pack, ReadCursor, Unpack};
use smb2::types::flags::{FileAccessMask, FileAttributes};
use smb2::types::status::NtStatus;
use smb2::types::{Command, CreditCharge, Dialect, FileId, OplockLevel, TreeId};
use smb2::{CompoundOp, Error, Frame, Result};

/// MS-FSCC 2.4 and 2.5: the classes that are asked for or set.
mod class {
    pub const BASIC: u8 = 4;
    pub const RENAME: u8 = 10;
    pub const DISPOSITION: u8 = 13;
    pub const ALL: u8 = 18;
    pub const END_OF_FILE: u8 = 20;
    pub const FS_ATTRIBUTE: u8 = 5;
    pub const FS_FULL_SIZE: u8 = 7;
}

/// Bytes that one credit pays for.
const CREDIT: usize = 64 * 1024;
/// Bytes of a directory asked for at once.
const LISTING: u32 = 256 * 1024;
/// The fixed part of a listed entry (FileIdBothDirectoryInformation).
const ENTRY: usize = 104;

/// What an open may do.
#[derive(Clone, Copy)]
pub struct Access(u32);

impl Access {
    /// Looks at something: no more rights than that needs.
    pub const LOOK: Self = Self(FileAccessMask::FILE_READ_ATTRIBUTES | FileAccessMask::SYNCHRONIZE);
    pub const READ: Self = Self(Self::LOOK.0 | FileAccessMask::FILE_READ_DATA);
    pub const DELETE: Self = Self(Self::LOOK.0 | FileAccessMask::DELETE);
    pub const SET_TIMES: Self = Self(Self::LOOK.0 | FileAccessMask::FILE_WRITE_ATTRIBUTES);
    /// Writes a file, sets its time, renames it.
    pub const WRITE: Self = Self(
        Self::READ.0
            | FileAccessMask::FILE_WRITE_DATA
            | FileAccessMask::FILE_APPEND_DATA
            | FileAccessMask::FILE_WRITE_ATTRIBUTES
            | FileAccessMask::DELETE,
    );
}

/// How an open treats the name. Links are never followed.
#[derive(Clone, Copy)]
pub struct Options(u32);

impl Options {
    pub const ANY: Self = Self(0x0020_0000);
    pub const DIRECTORY: Self = Self(Self::ANY.0 | 0x0000_0001);
    pub const FILE: Self = Self(Self::ANY.0 | 0x0000_0040);
}

/// Something open on the server. The server closes it with the connection at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    id: FileId,
    attributes: FileAttributes,
}

impl Open {
    pub fn is_directory(&self) -> bool {
        self.attributes.is_directory() && !self.attributes.is_reparse_point()
    }
}

/// What an open file says of itself (FileAllInformation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub attributes: FileAttributes,
    pub written: FileTime,
    pub changed: FileTime,
    pub size: u64,
    /// The file's number on its volume; 0 where it has none.
    pub id: u64,
}

/// Bytes of the share's file system for this account.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub total: u64,
    pub free: u64,
}

pub struct Live {
    connection: Connection,
    tree: TreeId,
    pub dialect: Dialect,
    /// Largest write and read, bytes.
    pub write: u64,
    pub read: u64,
}

impl Live {
    pub fn new(connection: Connection, tree: TreeId) -> Result<Self> {
        let params = connection.params().ok_or_else(|| Error::invalid_data("nothing was negotiated"))?;
        Ok(Self {
            connection,
            tree,
            dialect: params.dialect,
            write: u64::from(params.max_write_size).clamp(4096, 1 << 20),
            read: u64::from(params.max_read_size).clamp(4096, 1 << 20),
        })
    }

    /// Ends the connection now: whoever waits on it is told.
    pub fn end(&self) {
        self.connection.mark_dead();
    }

    async fn ask(&self, command: Command, body: &dyn Pack, bytes: usize) -> Result<Frame> {
        let charge = bytes.div_ceil(CREDIT).clamp(1, usize::from(u16::MAX)) as u16;
        let frame = self
            .connection
            .execute_with_credits(command, body, Some(self.tree), CreditCharge(charge))
            .await?;
        if frame.header.command != command {
            return Err(Error::invalid_data("the answer is to another request"));
        }
        Ok(frame)
    }

    /// Errors: everything but success.
    async fn done(&self, command: Command, body: &dyn Pack, bytes: usize) -> Result<Frame> {
        let frame = self.ask(command, body, bytes).await?;
        match frame.header.status {
            NtStatus::SUCCESS => Ok(frame),
            status => Err(Error::Protocol { status, command }),
        }
    }

    /// Several requests in one message (MS-SMB2 3.2.4.1.4): each after the first is about what the first one opens. What they
    /// answered, whatever it is, success of the first one taken for granted.
    async fn chain(&self, requests: &[(Command, &dyn Pack)]) -> Result<(Open, Vec<Frame>)> {
        let operations: Vec<CompoundOp<'_>> = requests
            .iter()
            .map(|(command, body)| CompoundOp::new(*command, *body, Some(self.tree)))
            .collect();
        let mut answers = Vec::with_capacity(requests.len());
        for (answer, (command, _)) in
            self.connection.execute_compound(&operations).await?.into_iter().zip(requests)
        {
            let frame = answer?;
            if frame.header.command != *command {
                return Err(Error::invalid_data("the answer is to another request"));
            }
            if answers.is_empty() && frame.header.status != NtStatus::SUCCESS {
                return Err(Error::Protocol { status: frame.header.status, command: *command });
            }
            answers.push(frame);
        }
        if answers.len() != requests.len() {
            return Err(Error::invalid_data("an answer is missing"));
        }
        Ok((opened(&answers[0])?, answers))
    }

    /// `name`: below the share, with backslashes; empty for the share itself.
    pub async fn open(
        &self,
        name: &str,
        disposition: CreateDisposition,
        access: Access,
        options: Options,
    ) -> Result<Open> {
        let request = to_open(name, disposition, access, options);
        opened(&self.done(Command::Create, &request, 1).await?)
    }

    /// Opens and asks what it is, in one message.
    pub async fn open_about(
        &self,
        name: &str,
        disposition: CreateDisposition,
        access: Access,
        options: Options,
    ) -> Result<(Open, About)> {
        let request = to_open(name, disposition, access, options);
        let ask = to_ask(FileId::SENTINEL, InfoType::File, class::ALL);
        let (open, answers) = self.chain(&[(Command::Create, &request), (Command::QueryInfo, &ask)]).await?;
        match about(&answers[1]) {
            Ok(about) => Ok((open, about)),
            Err(error) => {
                self.close(open).await;
                Err(error)
            }
        }
    }

    /// What was asked for is done already: an error changes nothing.
    pub async fn close(&self, open: Open) {
        let _ = self.done(Command::Close, &CloseRequest { flags: 0, file_id: open.id }, 1).await;
    }

    async fn query(&self, open: Open, info_type: InfoType, class: u8, least: usize) -> Result<Vec<u8>> {
        let frame = self.ask(Command::QueryInfo, &to_ask(open.id, info_type, class), CREDIT).await?;
        answered(&frame, least)
    }

    pub async fn about(&self, open: Open) -> Result<About> {
        about(&self.ask(Command::QueryInfo, &to_ask(open.id, InfoType::File, class::ALL), CREDIT).await?)
    }

    /// Looks at a name without following anything, in one message.
    pub async fn look(&self, name: &str) -> Result<About> {
        let request = to_open(name, CreateDisposition::FileOpen, Access::LOOK, Options::ANY);
        let ask = to_ask(FileId::SENTINEL, InfoType::File, class::ALL);
        let close = CloseRequest { flags: 0, file_id: FileId::SENTINEL };
        let requests: [(Command, &dyn Pack); 3] =
            [(Command::Create, &request), (Command::QueryInfo, &ask), (Command::Close, &close)];
        let (open, answers) = self.chain(&requests).await?;
        // What was refused may have taken the close with it.
        if answers[2].header.status != NtStatus::SUCCESS {
            self.close(open).await;
        }
        about(&answers[1])
    }

    pub async fn room(&self, open: Open) -> Result<Room> {
        let bytes = self.query(open, InfoType::Filesystem, class::FS_FULL_SIZE, 32).await?;
        let mut at = ReadCursor::new(&bytes);
        let (total, free) = (at.read_u64_le()?, at.read_u64_le()?);
        at.skip(8)?;
        let unit = u64::from(at.read_u32_le()?).saturating_mul(at.read_u32_le()?.into());
        Ok(Room { total: total.saturating_mul(unit), free: free.saturating_mul(unit) })
    }

    /// Characters of the longest name.
    pub async fn longest_name(&self, open: Open) -> Result<u32> {
        let bytes = self.query(open, InfoType::Filesystem, class::FS_ATTRIBUTE, 12).await?;
        let mut at = ReadCursor::new(&bytes);
        at.skip(4)?;
        at.read_u32_le()
    }

    async fn set(&self, open: Open, class: u8, buffer: Vec<u8>) -> Result<()> {
        let request = SetInfoRequest {
            info_type: InfoType::File,
            file_info_class: class,
            additional_information: 0,
            file_id: open.id,
            buffer,
        };
        self.done(Command::SetInfo, &request, 1).await.map(drop)
    }

    /// Sets the time of the last write; zero leaves the other times and the attributes as they are.
    pub async fn set_written(&self, open: Open, time: FileTime) -> Result<()> {
        let mut buffer = vec![0; 40];
        buffer[16..24].copy_from_slice(&time.0.to_le_bytes());
        self.set(open, class::BASIC, buffer).await
    }

    pub async fn set_size(&self, open: Open, size: u64) -> Result<()> {
        self.set(open, class::END_OF_FILE, size.to_le_bytes().to_vec()).await
    }

    /// Gives something open another name. `replace`: over what has it.
    pub async fn rename(&self, open: Open, to: &str, replace: bool) -> Result<()> {
        let name: Vec<u8> = to.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut buffer = vec![0; 20];
        buffer[0] = replace.into();
        buffer[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&name);
        // MS-FSCC 2.4.42.2: at least 24 bytes, whatever the name.
        buffer.resize(buffer.len().max(24), 0);
        self.set(open, class::RENAME, buffer).await
    }

    /// Marks something open to be gone when it is closed.
    pub async fn delete(&self, open: Open) -> Result<()> {
        self.set(open, class::DISPOSITION, vec![1]).await
    }

    /// Returns when the server says that its disk has what was written.
    pub async fn flush(&self, open: Open) -> Result<()> {
        self.done(Command::Flush, &FlushRequest { file_id: open.id }, 1).await.map(drop)
    }

    /// Writes all of `bytes`. Errors: also for a server that takes none of them, or more than there are.
    pub async fn write_all(&self, open: Open, bytes: Vec<u8>, offset: u64) -> Result<()> {
        let (mut left, mut offset) = (bytes, offset);
        loop {
            let length = left.len();
            let request = WriteRequest {
                data_offset: DATA_OFFSET,
                offset,
                file_id: open.id,
                channel: 0,
                remaining_bytes: 0,
                write_channel_info_offset: 0,
                write_channel_info_length: 0,
                flags: 0,
                data: left,
            };
            let frame = self.done(Command::Write, &request, length).await?;
            let took = WriteResponse::unpack(&mut ReadCursor::new(&frame.body))?.count as usize;
            if took == length {
                return Ok(());
            }
            if took == 0 || took > length {
                return Err(Error::invalid_data("the server took another number of bytes than it was given"));
            }
            left = request.data[took..].to_vec();
            offset += took as u64;
        }
    }

    /// Reads up to `length` bytes, unbuffered: from the server's disk, where it does such a thing. Nothing is the end.
    pub async fn read(&self, open: Open, offset: u64, length: usize) -> Result<Vec<u8>> {
        let unbuffered = matches!(self.dialect, Dialect::Smb3_0_2 | Dialect::Smb3_1_1);
        let request = ReadRequest {
            padding: 0x50,
            flags: if unbuffered { SMB2_READFLAG_READ_UNBUFFERED } else { 0 },
            length: u32::try_from(length).unwrap_or(u32::MAX),
            offset,
            file_id: open.id,
            minimum_count: 0,
            channel: 0,
            remaining_bytes: 0,
            read_channel_info: Vec::new(),
        };
        let frame = match self.done(Command::Read, &request, length).await {
            Err(error) if error.status() == Some(NtStatus::END_OF_FILE) => return Ok(Vec::new()),
            other => other?,
        };
        let data = ReadResponse::unpack(&mut ReadCursor::new(&frame.body))?.data;
        if data.len() > length {
            return Err(Error::invalid_data("the server sent more bytes than it was asked for"));
        }
        Ok(data)
    }

    /// The next entries of an open directory; nothing is the end.
    pub async fn list(&self, open: Open) -> Result<Vec<DirectoryInfoEntry>> {
        let class = FileInformationClass::FileIdBothDirectoryInformation;
        let length = LISTING.min(u32::try_from(self.read).unwrap_or(LISTING));
        let request = QueryDirectoryRequest {
            file_information_class: class,
            flags: QueryDirectoryFlags::default(),
            file_index: 0,
            file_id: open.id,
            output_buffer_length: length,
            file_name: "*".to_owned(),
        };
        let frame = match self.done(Command::QueryDirectory, &request, length as usize).await {
            Err(error)
                if matches!(error.status(), Some(NtStatus::NO_MORE_FILES | NtStatus::NO_SUCH_FILE)) =>
            {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let bytes = QueryDirectoryResponse::unpack(&mut ReadCursor::new(&frame.body))?.output_buffer;
        chained(&bytes)?;
        parse_entries(class, &bytes)
    }

    /// Takes leave: the share, then the session.
    pub async fn leave(&self) {
        let _ = self.connection.execute(Command::TreeDisconnect, &Bare, Some(self.tree)).await;
        let _ = self.connection.execute(Command::Logoff, &Bare, None).await;
        self.end();
    }
}

fn to_open(name: &str, disposition: CreateDisposition, access: Access, options: Options) -> CreateRequest {
    let directory = options.0 == Options::DIRECTORY.0;
    CreateRequest {
        requested_oplock_level: OplockLevel::None,
        impersonation_level: ImpersonationLevel::Impersonation,
        desired_access: FileAccessMask::new(access.0),
        file_attributes: if directory { FileAttributes::DIRECTORY } else { FileAttributes::NORMAL },
        share_access: ShareAccess(
            ShareAccess::FILE_SHARE_READ | ShareAccess::FILE_SHARE_WRITE | ShareAccess::FILE_SHARE_DELETE,
        ),
        create_disposition: disposition,
        create_options: options.0,
        name: name.to_owned(),
        create_contexts: Vec::new(),
    }
}

fn opened(frame: &Frame) -> Result<Open> {
    let created = CreateResponse::unpack(&mut ReadCursor::new(&frame.body))?;
    Ok(Open { id: created.file_id, attributes: FileAttributes(created.file_attributes) })
}

fn to_ask(file_id: FileId, info_type: InfoType, class: u8) -> QueryInfoRequest {
    QueryInfoRequest {
        info_type,
        file_info_class: class,
        output_buffer_length: CREDIT as u32,
        additional_information: 0,
        flags: 0,
        file_id,
        input_buffer: Vec::new(),
    }
}

/// What a query tells, at least so many bytes.
fn answered(frame: &Frame, least: usize) -> Result<Vec<u8>> {
    // An overflow cuts the name at the end, which is not needed.
    if !matches!(frame.header.status, NtStatus::SUCCESS | NtStatus::BUFFER_OVERFLOW) {
        return Err(Error::Protocol { status: frame.header.status, command: Command::QueryInfo });
    }
    let answer = QueryInfoResponse::unpack(&mut ReadCursor::new(&frame.body))?.output_buffer;
    if answer.len() < least {
        return Err(Error::invalid_data("the answer is too short"));
    }
    Ok(answer)
}

fn about(frame: &Frame) -> Result<About> {
    let bytes = answered(frame, 72)?;
    let mut at = ReadCursor::new(&bytes);
    at.skip(16)?;
    let (written, changed) = (FileTime::unpack(&mut at)?, FileTime::unpack(&mut at)?);
    let attributes = FileAttributes(at.read_u32_le()?);
    at.skip(4 + 8)?;
    let size = at.read_u64_le()?;
    at.skip(8)?;
    Ok(About { attributes, written, changed, size, id: at.read_u64_le()? })
}

/// Where a write's bytes begin, from the start of its header.
const DATA_OFFSET: u16 = 0x70;

/// MS-SMB2 2.2.7 and 2.2.11: a request of a size and nothing else.
struct Bare;

impl Pack for Bare {
    fn pack(&self, cursor: &mut smb2::pack::WriteCursor) {
        cursor.write_u16_le(4);
        cursor.write_u16_le(0);
    }
}

/// Entries must not overlap: a few bytes could otherwise be told as any number of long names.
fn chained(bytes: &[u8]) -> Result<()> {
    let wrong = || Error::invalid_data("the directory's entries overlap or end too early");
    let number = |at: usize| {
        let four = bytes.get(at..at + 4).ok_or_else(wrong)?;
        Ok::<_, Error>(u32::from_le_bytes(four.try_into().expect("four bytes")) as usize)
    };
    let mut at = 0;
    while at < bytes.len() {
        let next = number(at)?;
        let own = ENTRY.saturating_add(number(at + 60)?);
        if own > bytes.len() - at || (next != 0 && next < own) {
            return Err(wrong());
        }
        if next == 0 {
            return Ok(());
        }
        at += next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use smb2::msg::directory_info::pack_entries;

    #[test]
    fn entries_that_overlap_are_refused() {
        let class = FileInformationClass::FileIdBothDirectoryInformation;
        let entry = |name: &str| DirectoryInfoEntry { file_name: name.to_owned(), ..Default::default() };
        let good = pack_entries(class, &[entry("a"), entry("a longer name"), entry("z")]).unwrap();
        chained(&good).unwrap();
        assert_eq!(parse_entries(class, &good).unwrap().len(), 3);
        chained(&[]).unwrap();

        let mut overlapping = good.clone();
        overlapping[0..4].copy_from_slice(&8_u32.to_le_bytes());
        assert!(chained(&overlapping).is_err());
        let mut beyond = good.clone();
        beyond[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(chained(&beyond).is_err());
        assert!(chained(&good[..50]).is_err());
    }
}
