"""How much a software renderer has to draw.

Without a GPU a picture of LIBERO costs about as much at 64 pixels a side as at 256: what takes the time are the
triangles of the scanned objects and of the robot, of which a small picture shows next to nothing. Physics never sees
any of this: meshes that collide are left alone.
"""

import mujoco
import numpy as np

MESH = int(mujoco.mjtGeom.mjGEOM_MESH)


def lighten(sim, cell, samples):
    """Draws meshes on a grid of `cell` metres (0 for as they are), each pixel of `samples` samples.

    A model is changed once, so that this can follow every reset, which may have built a new one.
    """
    context, model = sim._render_context_offscreen, sim.model._model
    if getattr(context, "w2a_lightened", False):
        return
    if cell > 0:
        coarsen(model, cell)
    model.vis.quality.offsamples = samples
    context.gl_ctx.make_current()
    context.con.free()
    context._set_mujoco_context_and_buffers()
    context.w2a_lightened = True


def coarsen(model, cell):
    """Moves the corners of every mesh that is only looked at to one of their own per grid cell, and drops the triangles
    that vanish."""
    meshes = {True: set(), False: set()}
    for geom in np.flatnonzero(model.geom_type == MESH):
        collides = bool(model.geom_contype[geom] or model.geom_conaffinity[geom])
        meshes[collides].add(int(model.geom_dataid[geom]))
    for mesh in meshes[False] - meshes[True]:
        corners = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
        places = np.round((corners - corners.min(0)) / cell).astype(np.int64)
        _, first, cells = np.unique(places, axis=0, return_index=True, return_inverse=True)
        begin, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        faces = first[cells.ravel()][model.mesh_face[begin:][:count]]
        whole = (faces != np.roll(faces, 1, axis=1)).all(1)
        _, once = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
        kept = np.intersect1d(np.flatnonzero(whole), once)
        for corner in (model.mesh_facenormal, model.mesh_facetexcoord):
            corner[begin:][: len(kept)] = corner[begin:][kept]
        model.mesh_face[begin:][: len(kept)] = faces[kept]
        model.mesh_facenum[mesh] = len(kept)
