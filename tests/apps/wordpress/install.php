<?php
/* A blog with people, posts, pages, categories and comments. The arguments are JSON: title, and people's log-ins and addresses. */
$_SERVER['HTTP_HOST'] = 'localhost';
$_SERVER['REQUEST_METHOD'] = 'GET';
define('WP_INSTALLING', true);
require __DIR__ . '/wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';
wp_install('The Sapid Blog', 'admin', 'admin@example.org', true, '', 'secret');
foreach (json_decode($argv[1], true) as ['login' => $login, 'email' => $email]) {
    wp_insert_user(['user_login' => $login, 'user_email' => $email, 'user_pass' => 'secret', 'role' => 'author']);
}
$news = wp_create_category('News');
for ($i = 1; $i <= 25; $i++) {
    wp_insert_post(['post_title' => "Post $i", 'post_status' => 'publish', 'post_author' => 1, 'post_category' => [$i % 2 ? $news : 1],
                    'post_date' => sprintf('2026-03-%02d 10:00:00', $i), 'tags_input' => ['tag' . $i % 3],
                    'post_content' => str_repeat("<!-- wp:paragraph --><p>Paragraph of post $i, “quoted” & more.</p><!-- /wp:paragraph -->\n", 5)]);
}
wp_insert_post(['post_title' => 'About us', 'post_status' => 'publish', 'post_type' => 'page', 'post_author' => 1, 'post_content' => 'All about us.']);
update_option('posts_per_page', 5);
update_option('comment_previously_approved', '0');
update_option('active_plugins', ['sapid-test.php']);
update_option('permalink_structure', '/%year%/%monthnum%/%postname%/');
flush_rewrite_rules();
echo 'installed';
