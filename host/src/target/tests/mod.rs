//! Acts on a target against an in-memory backend, killed at every point.

mod claim;
mod crash;
mod manifests;
pub(crate) mod mem;
mod proofs;
mod remains;
mod unlisted;

use std::sync::Arc;

use offsite_plugin_api::{Attributes, Call, TargetPath, Timestamp, Token};

use self::mem::Mem;
use super::small::Bytes;
use super::{Publish, Recorded, Site, VerifyLevel, names};
use crate::catalog::{Catalog, Identity, StagedFile, Was};
use crate::format;

pub(crate) const ME: &str = "0123abcd";
pub(crate) const OTHER: &str = "ffffffff";

pub(crate) fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

/// A target and its catalog: what outlives a kill.
pub(crate) struct Bench {
    pub mem: Mem,
    pub catalog: Catalog,
    pub call: Call,
}

impl Bench {
    pub fn new(mem: Mem) -> Self {
        Self { mem, catalog: Catalog::in_memory().unwrap(), call: Call::unwatched() }
    }

    pub fn site(&self) -> Site<'_> {
        Site {
            backend: &self.mem,
            catalog: &self.catalog,
            capabilities: &self.mem.capabilities,
            call: &self.call,
            installation: ME,
        }
    }

    /// Stages a file as the worker does; complete and verified.
    pub fn stage(&self, name: &str, content: &[u8], mtime: i64, before: Option<Was>) -> Publish {
        let path = path(name);
        let staging = names::staging(&path, ME).unwrap();
        let token = Token(staging.as_bytes().to_vec());
        let attributes =
            Attributes { mtime: Some(Timestamp { ns: mtime, precision_ns: 1 }), ..Attributes::default() };
        let hash = *blake3::hash(content).as_bytes();
        let row = StagedFile {
            path: path.clone(),
            source: path.clone(),
            token: None,
            staging: staging.clone(),
            identity: Identity { size: content.len() as u64, mtime_ns: mtime, ctime_ns: mtime, inode: 7 },
            attributes: attributes.clone(),
            ranges: Vec::new(),
            durable: true,
            block_size: 1024,
            blake3: None,
            complete: false,
            verified: None,
            boundaries: Vec::new(),
        };
        self.catalog.begin_staging(&row).unwrap();
        self.mem.disk().staged.insert(
            staging.clone(),
            mem::MemStaged { path: path.clone(), owner: ME.into(), bytes: content.to_vec() },
        );
        self.catalog.staging_complete(&path, &token, hash, Some(VerifyLevel::ReadBack), &[]).unwrap();
        let record = Recorded {
            size: content.len() as u64,
            blake3: Some(hash),
            source_mtime_ns: mtime,
            source_ctime_ns: mtime,
            source_inode: 7,
            target_version: None,
            target_mtime: None,
            level: VerifyLevel::ReadBack,
            recognised: format::recognise_name(&path),
            set: "set".into(),
            image: path.clone(),
            parent: None,
            head: None,
            mount: None,
        };
        Publish {
            seen: 0,
            path: path.clone(),
            source_path: path,
            token,
            staging,
            attributes,
            digests: Vec::new(),
            before,
            record,
            span: None,
            upon: Default::default(),
            source: Arc::new(Bytes(content.to_vec())),
        }
    }

    /// What has the name now, as a plan sees it.
    pub fn was(&self, name: &str) -> Option<Was> {
        use offsite_plugin_api::Backend;
        self.mem.stat(&self.call, &path(name)).ok().map(|e| Was::of(&e))
    }

    /// Publishes without ado.
    pub fn publish(&self, name: &str, content: &[u8], mtime: i64) -> Recorded {
        let file = self.stage(name, content, mtime, self.was(name));
        super::publish_group(&self.site(), &[file]).unwrap().pop().unwrap()
    }

    /// Nothing of the host's own is left beside the images.
    pub fn assert_clean(&self) {
        let disk = self.mem.disk();
        let own: Vec<_> = disk.files.keys().filter(|p| names::is_own(p)).collect();
        assert!(own.is_empty(), "left: {own:?}");
        assert!(disk.staged.is_empty(), "left staged: {:?}", disk.staged.keys());
        drop(disk);
        assert_eq!(self.catalog.intents().unwrap(), []);
        assert_eq!(self.catalog.staged().unwrap(), []);
    }

    /// What the catalog says of a name is what the name holds.
    pub fn assert_records_true(&self) {
        for (path, record) in self.catalog.published().unwrap() {
            let Some(content) = self.mem.content(&path) else { continue };
            if let Some(hash) = record.blake3 {
                assert_eq!(hash, *blake3::hash(&content).as_bytes(), "the record of {path:?} is untrue");
            }
        }
    }
}
