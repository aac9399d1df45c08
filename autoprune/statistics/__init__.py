"""Statistics of the dense network on calibration data.

Axes in the signatures of this package and of those built on it (`reconstruction`, `importance`,
`recovery`):

    samples    samples of a batch, or of all calibration data
    positions  places at which a layer multiplies (pixels or tokens), per sample
    channels   channels of a layer's input or output
    units      units of a `ChannelGroup`; `entries` are the positions of one unit in a tensor
    inputs     columns of a layer's weight as a matrix (`moments.matrix_of`)
    outputs    rows of that matrix
    rows       pairs of a sample and a position: the rows of a least-squares problem

A name that begins with an underscore is not compared: such axes differ between the items of one
collection.
"""
