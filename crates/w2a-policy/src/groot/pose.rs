//! Rigid motions of an end effector, as the reference's `pose.py` on top of scipy's rotations.

use glam::{DMat3, DQuat, DVec3};
use w2a_nn::NnError;

use super::modality::ActionFormat;
use super::wrong;

/// Where an end effector is and how it is turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pose {
    rotation: DMat3,
    translation: DVec3,
}

impl ActionFormat {
    /// Values of a pose in this format.
    pub(super) fn pose_width(self) -> usize {
        match self {
            Self::Default => 16,
            Self::XyzRot6d => 9,
            Self::XyzRotvec => 6,
        }
    }
}

impl Pose {
    /// Reads the values of a pose.
    ///
    /// # Errors
    /// Another number of values than the format has, or values that are no rotation.
    pub(super) fn read(values: &[f64], format: ActionFormat) -> Result<Self, NnError> {
        let no_rotation = || {
            let expected = "a rotation: rows of some length, in different directions, right-handed";
            wrong("pose of an end effector", expected, format!("{values:?}"))
        };
        let row = |at: usize| DVec3::new(values[at], values[at + 1], values[at + 2]);
        if values.len() != format.pose_width() {
            let expected = format!("{} values for format {format:?}", format.pose_width());
            return Err(wrong("pose of an end effector", expected, values.len().to_string()));
        }
        let (rotation, translation) = match format {
            ActionFormat::Default => {
                let rows = DMat3::from_cols(row(0), row(4), row(8)).transpose();
                let rotation = orthogonal(rows).ok_or_else(no_rotation)?;
                (rotation, DVec3::new(values[3], values[7], values[11]))
            }
            ActionFormat::XyzRot6d => {
                let (first, second) = (row(3), row(6));
                let first = first.try_normalize().ok_or_else(no_rotation)?;
                let second = (second - first * first.dot(second)).try_normalize().ok_or_else(no_rotation)?;
                (DMat3::from_cols(first, second, first.cross(second)).transpose(), row(0))
            }
            ActionFormat::XyzRotvec => (DMat3::from_quat(DQuat::from_scaled_axis(row(3))), row(0)),
        };
        let finite = rotation.is_finite() && translation.is_finite();
        if finite { Ok(Self { rotation, translation }) } else { Err(no_rotation()) }
    }

    /// The values of this pose.
    pub(super) fn write(&self, format: ActionFormat) -> Vec<f64> {
        let rows = self.rotation.transpose();
        let [x, y, z] = self.translation.to_array();
        let mut out = vec![x, y, z];
        match format {
            ActionFormat::Default => {
                out.clear();
                for (row, shift) in [(rows.x_axis, x), (rows.y_axis, y), (rows.z_axis, z)] {
                    out.extend(row.to_array());
                    out.push(shift);
                }
                out.extend([0.0, 0.0, 0.0, 1.0]);
            }
            ActionFormat::XyzRot6d => {
                out.extend(rows.x_axis.to_array());
                out.extend(rows.y_axis.to_array());
            }
            ActionFormat::XyzRotvec => out.extend(rotation_vector(&self.rotation).to_array()),
        }
        out
    }

    /// This pose as seen from `reference`.
    pub(super) fn relative_to(&self, reference: &Self) -> Self {
        let back = reference.rotation.transpose();
        Self { rotation: back * self.rotation, translation: back * (self.translation - reference.translation) }
    }

    /// The pose that looks like this one as seen from `reference`.
    pub(super) fn placed_on(&self, reference: &Self) -> Self {
        let (turn, shift) = (reference.rotation, reference.translation);
        Self { rotation: turn * self.rotation, translation: turn * self.translation + shift }
    }
}

/// The rotation nearest to a matrix (its polar factor, by Newton's iteration), as scipy makes one of a matrix that is
/// nearly one; `None` for matrices that are singular, left-handed or not finite.
fn orthogonal(matrix: DMat3) -> Option<DMat3> {
    let mut current = matrix;
    for _ in 0..64 {
        let determinant = current.determinant();
        if !determinant.is_finite() || determinant <= 1e-12 {
            return None;
        }
        let next = (current + current.inverse().transpose()) * 0.5;
        let change = (next - current).to_cols_array().iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        current = next;
        if change < 1e-14 {
            break;
        }
    }
    Some(current)
}

/// Axis times angle, the angle in `[0, pi]`.
fn rotation_vector(rotation: &DMat3) -> DVec3 {
    let turn = DQuat::from_mat3(rotation).normalize();
    let turn = if turn.w < 0.0 { -turn } else { turn };
    let length = turn.xyz().length();
    let angle = 2.0 * length.atan2(turn.w);
    // Near no rotation at all the quotient is 2.
    turn.xyz() * if length > 1e-9 { angle / length } else { 2.0 }
}

#[cfg(test)]
mod tests {
    use super::{ActionFormat, Pose};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_format_reads_what_it_wrote_and_relative_poses_return(
            a in prop::array::uniform6(-1.7_f64..1.7), b in prop::array::uniform6(-1.7_f64..1.7)
        ) {
            let pose = Pose::read(&a, ActionFormat::XyzRotvec).unwrap();
            let reference = Pose::read(&b, ActionFormat::XyzRotvec).unwrap();
            for format in [ActionFormat::Default, ActionFormat::XyzRot6d, ActionFormat::XyzRotvec] {
                let back = Pose::read(&pose.write(format), format).unwrap();
                for (got, want) in back.write(ActionFormat::XyzRotvec).iter().zip(&a) {
                    prop_assert!((got - want).abs() < 1e-9, "{format:?} {got} {want}");
                }
            }
            let again = pose.relative_to(&reference).placed_on(&reference).write(ActionFormat::XyzRotvec);
            for (got, want) in again.iter().zip(&a) {
                prop_assert!((got - want).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn values_that_are_no_rotation_are_refused() {
        for (values, format) in [
            (vec![0.0; 9], ActionFormat::XyzRot6d),
            (vec![0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 2.0, 4.0, 6.0], ActionFormat::XyzRot6d),
            (vec![0.0; 16], ActionFormat::Default),
            (vec![f64::NAN; 6], ActionFormat::XyzRotvec),
            (vec![0.0; 7], ActionFormat::XyzRotvec),
        ] {
            assert!(Pose::read(&values, format).is_err(), "{values:?}");
        }
    }

    #[test]
    fn a_matrix_that_is_nearly_a_rotation_becomes_the_nearest_one() {
        let mut values = Pose::read(&[1.0, 2.0, 3.0, 0.3, -0.2, 0.9], ActionFormat::XyzRotvec).unwrap();
        values.rotation *= 1.01;
        let pose = Pose::read(&values.write(ActionFormat::Default), ActionFormat::Default).unwrap();
        let vector = pose.write(ActionFormat::XyzRotvec);
        assert!((vector[3] - 0.3).abs() < 1e-12 && (vector[5] - 0.9).abs() < 1e-12, "{vector:?}");
    }
}
