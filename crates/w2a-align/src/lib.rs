//! w2a-align
