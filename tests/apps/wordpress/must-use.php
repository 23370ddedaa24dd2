<?php
/* For tests: comments as fast as they are written. */
defined('ABSPATH') || exit;
add_filter('wp_is_comment_flood', '__return_false', 99);
