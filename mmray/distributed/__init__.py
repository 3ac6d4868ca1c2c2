"""What knows Ray: connecting, pools of actors, admission, feeding, progress."""
