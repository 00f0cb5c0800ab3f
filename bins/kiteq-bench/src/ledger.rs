//! Which message was acked and whom it reached: a bit for each fact.
//!
//! A message that was acked must reach every group. One whose publish got no ack is in doubt: it may arrive or not, and
//! neither is an error. Ten million messages and two groups take 4 MB.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::stamp::{MessageNumber, message_id};

/// A set of small numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct BitSet {
    words: Vec<u64>,
    count: u64,
}

impl BitSet {
    /// Whether the number was new.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.words.len() <= word {
            self.words.resize((word + 1).next_power_of_two(), 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(new);
        new
    }

    /// How many numbers are in it.
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// The numbers of either.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let len = self.words.len().max(other.words.len());
        let words: Vec<u64> = (0..len).map(|index| self.word(index) | other.word(index)).collect();
        let count = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Self { words, count }
    }

    fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// Numbers of this set that are not in `other`.
    pub(crate) fn minus<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let only_here = word & !other.word(index);
            (0..64).filter(move |bit| only_here >> bit & 1 == 1).map(move |bit| index as u64 * 64 + bit)
        })
    }

    pub(crate) fn minus_count(&self, other: &Self) -> u64 {
        let only_here = |(index, word): (usize, &u64)| u64::from((word & !other.word(index)).count_ones());
        self.words.iter().enumerate().map(only_here).sum()
    }
}

/// What one producer's messages went through.
#[derive(Debug, Clone, Default)]
struct Account {
    sent: u64,
    acked: BitSet,
    refused: u64,
    delivered: Vec<BitSet>,
}

#[derive(Debug)]
struct Accounts {
    producers: Vec<Account>,
    duplicates: Vec<u64>,
    alien: u64,
}

/// The books of one run.
#[derive(Debug)]
pub struct Ledger {
    run_id: u64,
    groups: Vec<String>,
    accounts: Mutex<Accounts>,
}

/// The ledger, open for a batch of entries.
#[derive(Debug)]
pub struct LedgerPage<'a> {
    accounts: MutexGuard<'a, Accounts>,
}

impl Ledger {
    /// Books for so many producers and these consumer groups.
    #[must_use]
    pub fn new(run_id: u64, producers: usize, groups: Vec<String>) -> Self {
        let account = Account { delivered: vec![BitSet::default(); groups.len()], ..Account::default() };
        let accounts =
            Accounts { producers: vec![account; producers], duplicates: vec![0; groups.len()], alien: 0 };
        Self { run_id, groups, accounts: Mutex::new(accounts) }
    }

    /// The run whose messages are booked.
    #[must_use]
    pub fn run_id(&self) -> u64 {
        self.run_id
    }

    /// Opens the books. Others wait until the page is dropped.
    pub fn open(&self) -> LedgerPage<'_> {
        LedgerPage { accounts: self.accounts.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Acked messages that did not reach some group, over all groups.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let page = self.open();
        let of = |account: &Account| {
            account.delivered.iter().map(|group| account.acked.minus_count(group)).sum::<u64>()
        };
        page.accounts.producers.iter().map(of).sum()
    }

    /// The state of the books; of what is missing, the first `listed_max` ids of every group are listed.
    #[must_use]
    pub fn balance(&self, listed_max: usize) -> Balance {
        let page = self.open();
        let producers = &page.accounts.producers;
        let sum = |count: fn(&Account) -> u64| producers.iter().map(count).sum::<u64>();
        let (sent, acked, refused) = (sum(|a| a.sent), sum(|a| a.acked.count), sum(|a| a.refused));
        let group = |(index, name): (usize, &String)| {
            let missing = |account: &Account| account.acked.minus_count(&account.delivered[index]);
            let listed = producers.iter().enumerate().flat_map(|(producer, account)| {
                let number = move |sequence| MessageNumber::new(producer, sequence);
                account.acked.minus(&account.delivered[index]).map(number)
            });
            GroupBalance {
                group: name.clone(),
                delivered: producers.iter().map(|account| account.delivered[index].count).sum(),
                unacked_delivered: producers
                    .iter()
                    .map(|account| account.delivered[index].minus_count(&account.acked))
                    .sum(),
                duplicates: page.accounts.duplicates[index],
                missing: producers.iter().map(missing).sum(),
                missing_ids: listed
                    .take(listed_max)
                    .map(|number| message_id(self.run_id, number).to_string())
                    .collect(),
            }
        };
        Balance {
            sent,
            acked,
            refused,
            in_doubt: sent.saturating_sub(acked + refused),
            alien: page.accounts.alien,
            groups: self.groups.iter().enumerate().map(group).collect(),
        }
    }
}

impl LedgerPage<'_> {
    /// A producer is about to send messages with sequences below `end`.
    pub fn sending(&mut self, producer: usize, end: u64) {
        if let Some(account) = self.accounts.producers.get_mut(producer) {
            account.sent = account.sent.max(end);
        }
    }

    /// A producer sent no more than the messages with sequences below `end`, whatever it announced.
    pub fn sent(&mut self, producer: usize, end: u64) {
        if let Some(account) = self.accounts.producers.get_mut(producer) {
            account.sent = end;
        }
    }

    /// The broker acked a message.
    pub fn acked(&mut self, number: MessageNumber) {
        if let Some(account) = self.accounts.producers.get_mut(number.producer()) {
            account.acked.insert(number.sequence());
        }
    }

    /// The broker refused a message.
    pub fn refused(&mut self, number: MessageNumber) {
        if let Some(account) = self.accounts.producers.get_mut(number.producer()) {
            account.refused += 1;
        }
    }

    /// A group received a message. Gives whether it is the first time.
    pub fn delivered(&mut self, group: usize, number: MessageNumber) -> bool {
        let accounts = &mut *self.accounts;
        let account = accounts.producers.get_mut(number.producer());
        let Some(account) = account.filter(|account| number.sequence() < account.sent) else {
            accounts.alien += 1;
            return false;
        };
        let Some(delivered) = account.delivered.get_mut(group) else {
            return false;
        };
        let first = delivered.insert(number.sequence());
        accounts.duplicates[group] += u64::from(!first);
        first
    }
}

/// What the books say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Messages that were sent, or were about to be.
    pub sent: u64,
    /// Of these, acked true.
    pub acked: u64,
    /// Of these, acked false.
    pub refused: u64,
    /// Of these, without an ack: they may have been stored or not.
    pub in_doubt: u64,
    /// Deliveries of this run's id whose number was never sent: corrupted on the way.
    pub alien: u64,
    /// One for each group.
    pub groups: Vec<GroupBalance>,
}

/// What the books say of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupBalance {
    /// The group.
    pub group: String,
    /// Different messages that it received.
    pub delivered: u64,
    /// Of these, messages whose publish was not acked true.
    pub unacked_delivered: u64,
    /// Receipts beyond a message's first.
    pub duplicates: u64,
    /// Acked messages that it did not receive.
    pub missing: u64,
    /// The first of them.
    pub missing_ids: Vec<String>,
}

impl Balance {
    /// Acked messages that did not reach some group, over all groups.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.groups.iter().map(|group| group.missing).sum()
    }

    /// Whether every acked message reached every group, unharmed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing() == 0 && self.alien == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(groups: &[&str]) -> Ledger {
        Ledger::new(7, 2, groups.iter().map(|group| (*group).to_owned()).collect())
    }

    #[test]
    fn an_acked_message_that_a_group_did_not_get_is_missing_there() {
        let ledger = ledger(&["a", "b"]);
        let mut page = ledger.open();
        page.sending(0, 100);
        page.sending(1, 100);
        for sequence in 0..100 {
            for producer in 0..2 {
                let number = MessageNumber::new(producer, sequence);
                page.acked(number);
                assert!(page.delivered(0, number));
                if (producer, sequence) != (1, 70) {
                    assert!(page.delivered(1, number));
                }
            }
        }
        drop(page);
        let balance = ledger.balance(10);
        assert!(!balance.is_clean());
        assert_eq!((balance.acked, balance.in_doubt, balance.missing()), (200, 0, 1));
        assert_eq!(ledger.missing(), 1);
        assert_eq!(balance.groups[0].missing_ids, Vec::<String>::new());
        assert_eq!(balance.groups[1].missing_ids, ["00000000000000070000010000000046"]);
        assert!(ledger.open().delivered(1, MessageNumber::new(1, 70)));
        assert!(ledger.balance(10).is_clean());
    }

    #[test]
    fn a_second_receipt_is_a_duplicate_and_nothing_else() {
        let ledger = ledger(&["a"]);
        let number = MessageNumber::new(0, 3);
        let mut page = ledger.open();
        page.sending(0, 4);
        page.acked(number);
        assert!(page.delivered(0, number));
        assert!(!page.delivered(0, number));
        drop(page);
        let balance = ledger.balance(10);
        assert_eq!((balance.groups[0].delivered, balance.groups[0].duplicates), (1, 1));
        assert!(balance.is_clean());
    }

    #[test]
    fn a_publish_without_ack_is_in_doubt_whether_it_arrives_or_not() {
        let ledger = ledger(&["a"]);
        let mut page = ledger.open();
        page.sending(0, 3);
        page.delivered(0, MessageNumber::new(0, 0));
        page.refused(MessageNumber::new(0, 2));
        drop(page);
        let balance = ledger.balance(10);
        assert_eq!((balance.in_doubt, balance.refused, balance.groups[0].unacked_delivered), (2, 1, 1));
        assert!(balance.is_clean());
        ledger.open().sent(0, 2);
        assert_eq!(ledger.balance(10).in_doubt, 1);
    }

    #[test]
    fn a_number_that_was_never_sent_is_alien_and_takes_no_memory() {
        let ledger = ledger(&["a"]);
        let mut page = ledger.open();
        page.sending(0, 3);
        assert!(!page.delivered(0, MessageNumber::new(0, (1 << 40) - 1)));
        assert!(!page.delivered(0, MessageNumber::new(9, 0)));
        drop(page);
        let balance = ledger.balance(10);
        assert_eq!(balance.alien, 2);
        assert!(!balance.is_clean());
    }

    #[test]
    fn the_list_of_missing_is_bounded_and_the_count_is_not() {
        let ledger = ledger(&["a"]);
        let mut page = ledger.open();
        page.sending(0, 1000);
        (0..1000).for_each(|sequence| page.acked(MessageNumber::new(0, sequence)));
        drop(page);
        let balance = ledger.balance(3);
        assert_eq!((balance.missing(), balance.groups[0].missing_ids.len()), (1000, 3));
    }
}
