"""mmray: media files in, fused predictions out, on Ray.

The journey, one line a module:

    config      YAML → one strict, typed description of the whole project
    errors      every fault the user can act on, as one tree
    storage     a path, local or s3:// → a filesystem; atomic writes, local copies of media
    uris        what a path, s3:// or a member of an archive says
    s3          what the faults of S3 mean: try again, give one object up, stop
    tables      names, types and shapes of the sample, feature and prediction tables
    samples     manifests, tar shards or a folder → partitions that never change for the same source
    decode      media bytes → frames, waveforms, words
    encode      frames, waveforms, words → feature vectors over time
    extraction  one partition of samples → one feature table file
    accounting  what each partition took and what failed → what the whole run did
    fusion      feature vectors → encoders + fusion + heads → predictions
    learn       feature tables → batches → a trained model, its metrics and its checkpoint
    plan        a config and a cluster's resources → actors and workers that are sure to fit

Only `distributed` and `stages` import Ray; `stages` has a file a command.
"""

__version__ = "0.1.0"
