//! What files truly hold. Every content ever written is a short byte string of its own, and the model knows which state
//! of which machine it gives and upon which state it builds: by this alone the oracle says what can be restored.

use std::collections::HashMap;
use std::sync::Arc;

/// A state of a machine's disk: what a restore gives.
pub type State = u32;
/// A content, as an index into the library.
pub type Id = usize;

#[derive(Clone, Debug)]
pub struct Content {
    pub bytes: Arc<[u8]>,
    /// Of an image: the state that it gives, and the one it needs to be there. `None` for what is no image.
    pub image: Option<Truth>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    pub machine: usize,
    /// Number of the set, unique in the world.
    pub set: u32,
    pub gives: State,
    pub needs: Option<State>,
}

#[derive(Debug, Default)]
pub struct Library {
    contents: Vec<Content>,
    by_bytes: HashMap<Arc<[u8]>, Id>,
    states: State,
}

impl Library {
    pub fn state(&mut self) -> State {
        self.states += 1;
        self.states
    }

    /// A content that no other has: `head`, then a serial number, then filling up to about `size` bytes.
    pub fn write(&mut self, head: &[u8], size: usize, image: Option<Truth>) -> Id {
        let id = self.contents.len();
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(&(id as u64 + 1).to_le_bytes());
        let filler = (id as u8).wrapping_mul(37) | 1;
        bytes.resize(bytes.len().max(size), filler);
        self.keep(bytes, image)
    }

    /// Exactly these bytes: a damaged or an empty file.
    pub fn raw(&mut self, bytes: Vec<u8>) -> Id {
        match self.by_bytes.get(&bytes[..]) {
            Some(known) => *known,
            None => self.keep(bytes, None),
        }
    }

    fn keep(&mut self, bytes: Vec<u8>, image: Option<Truth>) -> Id {
        let bytes: Arc<[u8]> = bytes.into();
        self.by_bytes.insert(bytes.clone(), self.contents.len());
        self.contents.push(Content { bytes, image });
        self.contents.len() - 1
    }

    pub fn get(&self, id: Id) -> &Content {
        &self.contents[id]
    }

    pub fn truth(&self, id: Id) -> Option<Truth> {
        self.contents[id].image
    }

    /// What the first image that gave a state needs.
    pub fn needs_of(&self, state: State) -> Option<State> {
        self.contents.iter().filter_map(|c| c.image).find(|t| t.gives == state)?.needs
    }

    pub fn size(&self, id: Id) -> usize {
        self.contents[id].bytes.len()
    }

    /// What this is; `None` for bytes that nobody at the source ever wrote.
    pub fn find(&self, bytes: &[u8]) -> Option<Id> {
        self.by_bytes.get(bytes).copied()
    }
}

/// Which of these contents can be restored, each beside all the others: it needs nothing, or what it needs is given by
/// another one that can be restored. `visible` may name a content twice.
pub fn restorable(library: &Library, visible: &[Id]) -> Vec<bool> {
    let truths: Vec<Option<Truth>> = visible.iter().map(|id| library.truth(*id)).collect();
    let mut given: std::collections::HashSet<State> = std::collections::HashSet::new();
    let mut whole = vec![false; visible.len()];
    loop {
        let mut grew = false;
        for (at, truth) in truths.iter().enumerate() {
            let Some(truth) = truth.filter(|_| !whole[at]) else { continue };
            // What an image gives may be there by another one too, which took it in.
            if truth.needs.is_none_or(|needs| given.contains(&needs)) || given.contains(&truth.gives) {
                whole[at] = true;
                given.insert(truth.gives);
                grew = true;
            }
        }
        if !grew {
            return whole;
        }
    }
}

/// A qcow2 of one 512-byte cluster whose header names that backing file.
pub fn qcow2_head(backing: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![0; 112];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&9u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    if let Some(name) = backing {
        bytes[8..16].copy_from_slice(&112u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes.resize(512, 0);
    bytes
}
