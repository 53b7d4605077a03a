//! What a group was made with, as a control record keeps it. FORMAT.md, "Control records".

use crate::event::query::{Item, Query};
use crate::format::{extras, names, u64_at, varint};

/// What may not change while a group has this name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    /// 0 the beginning, 1 the end, 2 a position, 3 a time.
    pub(crate) start: u8,
    /// The position, or the time in nanoseconds.
    pub(crate) start_at: u64,
    /// 0 none, 1 by stream, 2 by tag.
    pub(crate) order: u8,
    /// What the tag begins with.
    pub(crate) order_tag: String,
    /// What follows a dead letter under its order key becomes one, too.
    pub(crate) parks: bool,
    pub(crate) filter: Query,
}

impl Definition {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.start, self.order, u8::from(self.parks)]);
        out.extend_from_slice(&self.start_at.to_le_bytes());
        extras::put_text(out, &self.order_tag);
        varint::put(out, self.filter.items.len() as u64);
        for item in &self.filter.items {
            for (_, list) in item.lists() {
                varint::put(out, list.len() as u64);
                list.iter().for_each(|text| extras::put_text(out, text));
            }
        }
    }

    pub(super) fn take(rest: &mut &[u8]) -> Option<Self> {
        if rest.len() < 11 || rest[0] > 3 || rest[1] > 2 || rest[2] > 1 {
            return None;
        }
        let (start, order, parks, start_at) = (rest[0], rest[1], rest[2] == 1, u64_at(rest, 3));
        *rest = &rest[11..];
        let order_tag = extras::take_text(rest)?.to_owned();
        if if order == 2 { !names::is_sound(order_tag.as_bytes()) } else { !order_tag.is_empty() } {
            return None;
        }
        let mut filter = Query::new();
        for _ in 0..varint::take(rest)? {
            let mut item = Item::default();
            for list in lists_mut(&mut item) {
                for _ in 0..varint::take(rest)? {
                    list.push(extras::take_text(rest).filter(|text| names::is_sound(text.as_bytes()))?.to_owned());
                }
            }
            // An item that asks for nothing would have made the whole query ask for nothing.
            if item.is_all() {
                return None;
            }
            filter.items.push(item);
        }
        Some(Self { start, start_at, order, order_tag, parks, filter })
    }
}

/// In the order of [`Item::lists`].
fn lists_mut(item: &mut Item) -> [&mut Vec<String>; 5] {
    [&mut item.streams, &mut item.categories, &mut item.subjects, &mut item.types, &mut item.tags]
}
