//! The statuses of the answers.

use std::fmt::{self, Display};

/// The number and the phrase of an answer. RFC 9110, 15
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) &'static str);

impl Status {
    pub(super) const OK: Status = Status("200 OK");
    pub(super) const NO_CONTENT: Status = Status("204 No Content");
    pub(super) const PARTIAL_CONTENT: Status = Status("206 Partial Content");
    pub(super) const MOVED_PERMANENTLY: Status = Status("301 Moved Permanently");
    pub(super) const NOT_MODIFIED: Status = Status("304 Not Modified");
    pub(super) const BAD_REQUEST: Status = Status("400 Bad Request");
    pub(super) const FORBIDDEN: Status = Status("403 Forbidden");
    pub(super) const NOT_FOUND: Status = Status("404 Not Found");
    /// The phrase may be any text: it explains why a directory without an index is not found.
    pub(super) const NO_INDEX: Status =
        Status("404 This folder has no index.html, and folders are not listed");
    pub(super) const METHOD_NOT_ALLOWED: Status = Status("405 Method Not Allowed");
    pub(super) const REQUEST_TIMEOUT: Status = Status("408 Request Timeout");
    pub(super) const LENGTH_REQUIRED: Status = Status("411 Length Required");
    pub(super) const PRECONDITION_FAILED: Status = Status("412 Precondition Failed");
    pub(super) const CONTENT_TOO_LARGE: Status = Status("413 Content Too Large");
    pub(super) const URI_TOO_LONG: Status = Status("414 URI Too Long");
    pub(super) const RANGE_NOT_SATISFIABLE: Status = Status("416 Range Not Satisfiable");
    pub(super) const EXPECTATION_FAILED: Status = Status("417 Expectation Failed");
    pub(super) const FIELDS_TOO_LARGE: Status = Status("431 Request Header Fields Too Large");
    pub(super) const SERVER_ERROR: Status = Status("500 Internal Server Error");
    pub(super) const NOT_IMPLEMENTED: Status = Status("501 Not Implemented");
    pub(super) const UNAVAILABLE: Status = Status("503 Service Unavailable");
    pub(super) const VERSION_NOT_SUPPORTED: Status = Status("505 HTTP Version Not Supported");
}

/// The number alone.
impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..3).unwrap_or_default())
    }
}
