//! Chance that can be had again.

/// Numbers that look random and are the same each time (xorshift64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }

    pub(super) fn number(&mut self, sides: usize) -> u32 {
        u32::try_from(self.roll(sides)).expect("a small number")
    }

    pub(super) fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.roll(items.len())]
    }
}
