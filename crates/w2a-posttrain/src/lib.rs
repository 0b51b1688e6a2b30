//! w2a-posttrain
