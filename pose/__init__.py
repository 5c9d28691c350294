"""DWPose nets, keypoint formats, alignment, augmentation, drawing, tracking."""
