"""The image of a robot's camera."""


def get_image_from_maniskill2_obs_dict(env, obs, camera_name=None):
    camera = camera_name or ("3rd_view_camera" if "widowx" in env.robot_uid else "overhead_camera")
    return obs["image"][camera]["rgb"]
