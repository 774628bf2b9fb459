//! What goes wrong in a session: an exception, and the method at fault.

use warren_protocol::{DecodeError, ReplyCode, TableError};

use crate::exception::Exception;

/// An exception with class and method id for the close method; 0 and 0 when there is no method.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) exception: Exception,
    pub(super) ids: (u16, u16),
}

impl Fault {
    pub(super) fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Exception::new(code, text).into()
    }

    /// Names the method at fault, unless one is named.
    pub(super) fn of(mut self, ids: (u16, u16)) -> Self {
        if self.ids == (0, 0) {
            self.ids = ids;
        }
        self
    }
}

impl From<Exception> for Fault {
    fn from(exception: Exception) -> Self {
        Self {
            exception,
            ids: (0, 0),
        }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        let ids = error.ids();
        Self {
            exception: Exception::new(error.reply_code(), error.to_string()),
            ids,
        }
    }
}

impl From<TableError> for Fault {
    fn from(error: TableError) -> Self {
        DecodeError::from(error).into()
    }
}
