//! A call as it waits for a store's thread.

use kiteq_protocol::{Message, MessageId};

use crate::error::StoreError;
use crate::held::{AppendOutcome, Done, GroupState, Kill, Loaded, Revived, Slot, Verdict, VerdictOutcome};

/// One call of [`crate::MessageStore`]; the fields are its arguments.
pub(crate) enum Command {
    Append {
        messages: Vec<Message>,
        done: Done<Vec<(Message, AppendOutcome)>>,
    },
    Decide {
        verdicts: Vec<(MessageId, Verdict)>,
        done: Done<Vec<VerdictOutcome>>,
    },
    Settle {
        slots: Vec<Slot>,
    },
    Note {
        states: Vec<(Slot, Vec<GroupState>)>,
    },
    Kill {
        dead: Vec<Kill>,
    },
    Load {
        slots: Vec<Slot>,
        done: Done<Vec<Result<Loaded, StoreError>>>,
    },
    Revive {
        ids: Vec<MessageId>,
        done: Done<Vec<Revived>>,
    },
    Purge {
        ids: Vec<MessageId>,
        done: Done<usize>,
    },
    /// Runs `done` when everything queued before is finished.
    Barrier {
        done: Done<Result<(), StoreError>>,
    },
    /// Like a barrier, and everything after it is refused.
    Close {
        done: Done<Result<(), StoreError>>,
    },
}

impl Command {
    /// Answers a call that will never be carried out.
    pub(crate) fn refuse(self, error: &StoreError) {
        match self {
            Self::Append { messages, done } => done(
                messages
                    .into_iter()
                    .map(|message| (message, AppendOutcome::Refused(error.clone())))
                    .collect(),
            ),
            Self::Decide { verdicts, done } => {
                done(verdicts.iter().map(|_| VerdictOutcome::Failed(error.clone())).collect());
            }
            Self::Settle { .. } | Self::Note { .. } | Self::Kill { .. } => {}
            Self::Load { slots, done } => done(slots.iter().map(|_| Err(error.clone())).collect()),
            Self::Revive { ids, done } => done(ids.iter().map(|_| Err(error.clone())).collect()),
            Self::Purge { done, .. } => done(0),
            Self::Barrier { done } | Self::Close { done } => done(Err(error.clone())),
        }
    }
}
