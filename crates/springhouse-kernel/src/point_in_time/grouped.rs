//! Rows by entity: one counting sort instead of a hash table, since entities are dense numbers.

/// Items of all entities, those of one entity side by side.
pub(super) struct Grouped<T> {
    /// Where each entity's items start; one more than there are entities.
    offsets: Vec<u32>,
    items: Vec<T>,
}

impl<T: Copy + Default> Grouped<T> {
    /// Groups the rows that `keep` wants, in the order they come.
    ///
    /// # Panics
    /// When an entity is not below `entity_count`.
    pub(super) fn new(
        entities: &[u32],
        entity_count: usize,
        keep: impl Fn(usize) -> bool,
        item: impl Fn(usize) -> T,
    ) -> Self {
        assert!(entities.len() < u32::MAX as usize, "a partition has fewer than 2^32 rows");
        let mut offsets = vec![0u32; entity_count + 1];
        for (row, entity) in entities.iter().enumerate() {
            offsets[*entity as usize + 1] += u32::from(keep(row));
        }
        let mut total = 0;
        for offset in &mut offsets {
            total += *offset;
            *offset = total;
        }
        let mut next = offsets.clone();
        let mut items = vec![T::default(); total as usize];
        for (row, entity) in entities.iter().enumerate() {
            if keep(row) {
                let place = &mut next[*entity as usize];
                items[*place as usize] = item(row);
                *place += 1;
            }
        }
        Self { offsets, items }
    }

    /// Where each entity's items start, and the items.
    pub(super) fn into_parts(self) -> (Vec<u32>, Vec<T>) {
        (self.offsets, self.items)
    }

    /// The items of an entity.
    pub(super) fn of(&mut self, entity: usize) -> &mut [T] {
        let (from, to) = (self.offsets[entity] as usize, self.offsets[entity + 1] as usize);
        &mut self.items[from..to]
    }
}

/// Sorts by a key, unless it is sorted already, as files in time order are.
pub(super) fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    if !items.is_sorted_by_key(&key) {
        items.sort_unstable_by_key(key);
    }
}

/// A label: the moment asked for and its row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) at: i64,
    pub(super) row: u32,
}

/// An event: the two times that decide most, and its row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Happened {
    pub(super) visible_at: i64,
    pub(super) event_time: i64,
    pub(super) row: u32,
}
