//! The groups that a message is still owed to, as positions in its route's member list.

/// A set of small numbers that takes 16 bytes while they are below 64, as they nearly always are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum GroupSet {
    /// One bit for each of the positions 0 to 63.
    Inline(u64),
    /// One bit for each position, 64 a word. Boxed twice so that the common case stays small.
    #[allow(clippy::box_collection, reason = "a thin pointer keeps the enum at 16 bytes")]
    Spilled(Box<Vec<u64>>),
}

impl GroupSet {
    pub(crate) const EMPTY: Self = Self::Inline(0);

    fn words(&self) -> &[u64] {
        match self {
            Self::Inline(word) => std::slice::from_ref(word),
            Self::Spilled(words) => words,
        }
    }

    pub(crate) fn insert(&mut self, position: usize) {
        let (word, bit) = (position / 64, 1 << (position % 64));
        match self {
            Self::Inline(inline) if word == 0 => *inline |= bit,
            Self::Inline(inline) => {
                let mut words = vec![0; word + 1];
                words[0] = *inline;
                words[word] |= bit;
                *self = Self::Spilled(Box::new(words));
            }
            Self::Spilled(words) => {
                if words.len() <= word {
                    words.resize(word + 1, 0);
                }
                words[word] |= bit;
            }
        }
    }

    /// Removes `position`; says whether it was there.
    pub(crate) fn remove(&mut self, position: usize) -> bool {
        let (word, bit) = (position / 64, 1 << (position % 64));
        let word = match self {
            Self::Inline(inline) if word == 0 => Some(inline),
            Self::Inline(_) => None,
            Self::Spilled(words) => words.get_mut(word),
        };
        word.is_some_and(|word| {
            let was_there = *word & bit != 0;
            *word &= !bit;
            was_there
        })
    }

    pub(crate) fn contains(&self, position: usize) -> bool {
        self.words().get(position / 64).is_some_and(|word| word & 1 << (position % 64) != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words().iter().all(|&word| word == 0)
    }

    /// The positions in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words().iter().enumerate().flat_map(|(index, &word)| {
            let next = |rest: &u64| Some(rest & (rest - 1)).filter(|&rest| rest != 0);
            std::iter::successors(Some(word).filter(|&word| word != 0), next)
                .map(move |rest| index * 64 + rest.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_on_both_sides_of_the_word() {
        let mut set = GroupSet::EMPTY;
        let positions = [0, 5, 63, 64, 200];
        for position in positions {
            assert!(!set.contains(position));
            set.insert(position);
            assert!(set.contains(position));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), positions);
        for position in positions {
            assert!(!set.is_empty());
            assert!(set.remove(position));
            assert!(!set.remove(position));
        }
        assert!(set.is_empty());
        assert_eq!(size_of::<GroupSet>(), 16);
    }
}
